# make install | demo | test | lint | bench | notebooks | gallery | clean
# PYTHON=/path/to/python3.12 chooses the interpreter that .venv is made from (3.11 or newer).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# Threads that wait spin briefly, then sleep: endless spinning is 10 times slower beside another program, sleeping at
# once twice as slow on an idle machine.
export GOMP_SPINCOUNT ?= 8000

.PHONY: help install demo test lint format bench notebooks gallery clean

help:
	@echo "make install    create $(VENV) with everything (a C compiler is needed for pyworld)"
	@echo "make demo       train and convert the bundled voices, about ten minutes on two cores"
	@echo "make test       all tests"
	@echo "make lint       check style and format of the Python files (make format writes it)"
	@echo "make bench      speed and memory beside a plain version, about six minutes; leave the machine alone meanwhile"
	@echo "make notebooks  write notebooks/*.ipynb and README's tables of options anew"
	@echo "make gallery    run the notebooks in order and keep them as HTML in gallery/"
	@echo "make clean      remove caches, builds and the demo's results; your data stays"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=python3.12 install" >&2; exit 2; }
	@echo "[1/4] environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[2/4] torch and numpy"
	@$(PIP) torch numpy "setuptools<81"
	@echo "[3/4] svcnb and everything it can use (pyworld is compiled, about a minute)"
	@$(PIP) --editable ".[all]"
	@echo "[4/4] check"
	@$(BIN)/python -c "import svcnb, torch; print('svcnb', svcnb.__version__, 'with torch', torch.__version__)"
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m svcnb demo

test: $(STAMP)
	@$(BIN)/python -m pytest

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python -m tests.benchmarks

notebooks: $(STAMP)
	@$(BIN)/python notebooks/build.py

gallery: $(STAMP)
	@$(BIN)/python notebooks/build.py --gallery gallery

clean:
	@rm -rf build dist gallery .pytest_cache .benchmarks *.egg-info data/demo-run
	@find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
