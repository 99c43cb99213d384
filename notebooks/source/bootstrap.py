# %% [markdown] setup-text
# ## Set-up
# The next cell finds the project. On Colab it fetches the project first and installs the few packages that are
# missing; torch and numpy stay as they are, and nothing has to be restarted.

# %% setup
import os, subprocess, sys
from pathlib import Path

places = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "svcnb"]
root = next((place for place in places if (place / "svcnb" / "__init__.py").is_file()), None)
if root is None:
    command = ["git", "clone", "-q", "--depth", "1", "REPOSITORY", "svcnb"]
    subprocess.run(command, check=True)
    root = Path.cwd() / "svcnb"
os.chdir(root)
os.environ.setdefault("GOMP_SPINCOUNT", "8000")  # waiting threads spin briefly, then sleep
sys.path[:0] = [] if str(root) in sys.path else [str(root)]
from svcnb.device import choose_device
from svcnb.notebook.environment import describe_machine, install_missing, on_colab
from svcnb.notebook.workspace import open_workspace

installed = install_missing() if on_colab() else []
from svcnb.notebook.display import show_audio, show_facts, show_files

show_facts(describe_machine())
