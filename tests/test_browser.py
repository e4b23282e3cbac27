"""JupyterLab in a real browser: each notebook is opened, all its cells run, and what a learner sees is looked at.

Needs a Chromium or Chrome on the PATH (Debian: apt install chromium). Screenshots are kept in build/screenshots.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading

import nbformat
import pytest
from nbconvert.preprocessors import ClearOutputPreprocessor

from fmnist_utils import runs

pytestmark = pytest.mark.slow
SCREENSHOTS = runs.ROOT / "build" / "screenshots"
PATHS = sorted((runs.ROOT / "notebooks").glob("[0-9][0-9]_*[a-z].ipynb"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run", "--disable-quic"]
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # or only visible cells are in the page
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}

WRONG = (
    ".jp-Dialog, [data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
)
DONE = f"""count => document.querySelector("{WRONG}") || count === [...document.querySelectorAll(
    '.jp-CodeCell .jp-InputPrompt')].filter((prompt, i) => prompt.textContent === `[${{i + 1}}]:`).length"""
PICTURES = """() => [...document.querySelectorAll('.jp-OutputArea-output img')].map(picture => picture.naturalWidth)"""
HEIGHT = """() => { const cells = [...document.querySelectorAll('.jp-Notebook .jp-Cell')].map(
    cell => cell.getBoundingClientRect()); return Math.round(cells.at(-1).bottom - cells[0].top) }"""
CUT_OFF = """() => [...document.querySelectorAll('.jp-Notebook .cm-scroller, .jp-OutputArea-output')].filter(
    part => part.scrollWidth > part.clientWidth + 1).map(part => part.textContent.slice(0, 80))"""


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: requirements-dev.txt")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if not found:
        pytest.skip("no chromium, google-chrome or chrome on the PATH (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request, tmp_path):
    """The notebook as it is stored; in tmp_path a copy without outputs, which trains on few images."""
    stored = nbformat.read(request.param, as_version=4)
    copy, _ = ClearOutputPreprocessor().preprocess(nbformat.read(request.param, as_version=4), {})
    for cell in copy.cells:
        cell.source = cell.source.replace("train_size: int = 0 ", "train_size: int = 6000 ")
    nbformat.write(copy, tmp_path / request.param.name)
    return stored


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on tmp_path, behind a token; its address."""
    (tmp_path / "config" / "labconfig").mkdir(parents=True)
    overrides = tmp_path / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.write_text(json.dumps(SETTINGS), encoding="utf-8")
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "FMNIST_RUNS_DIR": str(tmp_path)}
    words = ["--no-browser", "--allow-root", "--ServerApp.port=0", f"--ServerApp.root_dir={tmp_path}"]
    command = [sys.executable, "-m", "jupyterlab", *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8") as server:
        address = next(filter(None, (re.search(r"http://127\S+/lab\?token=\S+", line) for line in server.stderr)))[0]
        threading.Thread(target=server.stderr.read, daemon=True).start()  # or it would stop writing, and wait
        yield address
        server.terminate()  # it ends its kernels


def test_all_cells_run_and_what_a_learner_sees_is_whole(notebook, lab, chromium, tmp_path):
    (name,) = [path.name for path in tmp_path.glob("*.ipynb")]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(lab.replace("/lab?", f"/lab/tree/{name}?"), timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)  # before, cells may never be answered
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(DONE, arg=sum(cell.cell_type == "code" for cell in notebook.cells), timeout=600_000)
    assert not page.locator(WRONG).all_inner_texts(), "a question, an error or stderr"
    for width in (1400, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        if width == 1024:
            page.keyboard.press("Control+B")  # without the list of files
            page.wait_for_selector("#filebrowser", state="hidden")
        page.set_viewport_size({"width": width, "height": min(page.evaluate(HEIGHT) + 250, 16_000)})
        page.evaluate("() => { document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0 }")
        page.screenshot(path=SCREENSHOTS / f"{name.removesuffix('.ipynb')}-{width}.png")
        assert not page.evaluate(CUT_OFF), f"cut off at {width} pixels"
    pictures = page.evaluate(PICTURES)
    assert len(pictures) == sum("image/png" in output.get("data", {}) for output in outputs), "a figure is missing"
    assert min(pictures, default=101) > 100
    page.close()
