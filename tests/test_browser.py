"""05_convert in a browser: JupyterLab, the form is filled and the button is clicked.

Needs jupyterlab, ipywidgets, playwright (`pip install playwright`, the package alone) and an installed chromium;
skipped with a message if one of them is missing. No voice is trained: the weights are random.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import soundfile

from tests.places import DEMO_VOICES, PROJECT
from tests.toys.small_voice import save_small_voice

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytest.importorskip("jupyterlab")
pytest.importorskip("ipywidgets")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")

STARTS_WITHIN_S = 120
RUNS_WITHIN_MS = 120_000
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not in the page
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },  # no question in the corner
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a voice, two short recordings and 05_convert set to them."""
    folder = tmp_path_factory.mktemp("work space (2)")
    save_small_voice(folder / "data" / "models" / "me")
    samples, rate_hz = soundfile.read(DEMO_VOICES / "raw" / "bruno" / "bruno_01.flac", stop=22050 * 3)
    for name in ("first.flac", "a song.flac"):
        (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "data" / "raw" / name, samples, rate_hz)
    (folder / "svcnb").symlink_to(
        PROJECT, target_is_directory=True
    )  # where the set-up cell finds the project
    text = (PROJECT / "notebooks" / "05_convert.ipynb").read_text(encoding="utf-8")
    chosen = {
        "workspace": str(folder),
        "wav": "data/raw/first.flac",
        "model": "data/models/me",
        "f0_predictor": "dio",
    }
    for name, value in chosen.items():
        assignment = json.dumps(f"{name} = {json.dumps(value)}")[1:-1]
        text, n_replaced = re.subn(rf'(?<="){name} = \\".*?\\"', lambda _, new=assignment: new, text, count=1)
        assert n_replaced == 1, name
    (folder / "05_convert.ipynb").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def lab(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab over the workspace, with settings of its own."""
    own = tmp_path_factory.mktemp("jupyter")
    for name, setting in SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(setting))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={workspace}",
        f"--LabApp.user_settings_dir={own / 'settings'}",
        f"--LabApp.workspaces_dir={own / 'workspaces'}",
    ]
    with (own / "log.txt").open("w") as log:
        folders = {"JUPYTER_CONFIG_DIR": str(own / "config"), "JUPYTER_RUNTIME_DIR": str(own / "runtime")}
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | folders,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api", server, own / "log.txt")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"no JupyterLab within {STARTS_WITHIN_S} s: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[Page]:
    """05_convert, opened and run to its end by the menu."""
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(RUNS_WITHIN_MS)
        playwright.expect.set_options(timeout=RUNS_WITHIN_MS)
        page.goto(f"{lab}/lab/tree/05_convert.ipynb")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        convert_button(page).wait_for()
        yield page
        browser.close()


def convert_button(page: Page) -> Locator:
    return page.locator("button.jupyter-button", has_text="Convert")


def field(page: Page, label: str) -> Locator:
    """The widget whose label is exactly this."""
    return page.locator(
        ".jupyter-widgets.widget-inline-hbox", has=page.locator("label", has_text=re.compile(f"^{label}$"))
    )


def choose(page: Page, label: str, option: str) -> None:
    field(page, label).locator("select").select_option(
        option.replace(" ", "\N{NO-BREAK SPACE}")
    )  # as ipywidgets shows it


def drag_to(page: Page, label: str, value: str) -> None:
    """Set a slider by typing into its number, as one does for exact values."""
    readout = field(page, label).locator(".widget-readout")
    readout.click()
    page.keyboard.press("Control+A")
    page.keyboard.type(value)
    page.keyboard.press("Enter")


def press_convert(page: Page) -> str:
    """Click, wait until the status line has its last word and the button can be pressed again; give that line."""
    button = convert_button(page)
    status = button.locator("xpath=..").locator(".widget-html-content")
    before = status.inner_text()
    button.click()
    playwright.expect(status).not_to_have_text(before)
    playwright.expect(status).not_to_have_text("converting ...")
    playwright.expect(button).to_be_enabled()
    return status.inner_text()


def test_the_filled_form_converts_on_a_click(page: Page, workspace: Path) -> None:
    choose(page, "recording", "data/raw/a song.flac")
    choose(page, "f0 predictor", "dio")
    drag_to(page, "trans", "5")
    status = press_convert(page)
    (result,) = (workspace / "data" / "converted").glob("a song.flac_5key_*.flac")
    assert result.name in status and re.search(r"in \d+\.\d s", status)
    assert abs(soundfile.info(result).duration - 3) < 1e-3
    output = page.locator(".jp-OutputArea-output .widget-output, .jupyter-widgets.widget-output").last
    playwright.expect(output.locator("audio")).to_have_count(2)
    playwright.expect(output.locator("img")).to_have_count(1)


def test_the_form_shows_what_is_missing_and_can_be_used_again(page: Page, workspace: Path) -> None:
    before = sorted((workspace / "data" / "converted").iterdir())
    (workspace / "data" / "raw" / "a song.flac").rename(workspace / "data" / "raw" / "moved.flac")
    assert "a song.flac is neither in" in press_convert(page)
    assert sorted((workspace / "data" / "converted").iterdir()) == before
    choose(page, "recording", "data/raw/first.flac")
    drag_to(page, "trans", "-2")
    assert "first.flac_-2key_" in press_convert(page)
