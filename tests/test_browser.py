"""JupyterLab in a real browser: each notebook is opened, all of its cells run, and what a learner sees is looked at.

Needs Debian's chromium (or any Chromium or Chrome on the PATH) and the Python package playwright. Screenshots are kept
in build/screenshots, each notebook as a whole at 1400 and at 1024 pixels.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import nbformat
import pytest
import requests
from shipped import shipped

from fmnist_utils import runs

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCREENSHOTS = runs.ROOT / "build" / "screenshots"
PATHS = shipped("notebooks/*.ipynb")
SHORTER = {"train_size: int = 0": "train_size: int = 12000"}  # 03: a training long enough to see its bar move
SECONDS = 600  # a notebook's longest time
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run", "--disable-quic"]

MOVES = """() => [...document.querySelectorAll('.jp-OutputArea-output progress')].map(bar => bar.value / bar.max)"""
CURVE = """() => [...document.querySelectorAll('.jp-OutputArea-output polyline')].map(line => line.points.length)"""
PROMPTS = """() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent)"""
PICTURES = """() => [...document.querySelectorAll('.jp-OutputArea-output img')].map(picture => picture.naturalWidth)"""
HEIGHT = """() => { const cells = [...document.querySelectorAll('.jp-Notebook .jp-Cell')].map(
    cell => cell.getBoundingClientRect()); return cells.at(-1).bottom - cells[0].top }"""
CODE_CUT_OFF = """() => [...document.querySelectorAll('.jp-Notebook .cm-scroller')].filter(
    code => code.scrollWidth > code.clientWidth + 1).map(code => code.textContent.slice(0, 80))"""
TOO_WIDE = """() => [...document.querySelectorAll('.jp-OutputArea-output')].filter(
    output => output.scrollWidth > output.clientWidth + 1).map(output => output.textContent.slice(0, 80))"""


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: requirements-dev.txt")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks, behind a token; yields the address of a notebook by its name."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(runs.ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for path in (home / "notebooks").glob("03*.ipynb"):
        content = path.read_text(encoding="utf-8")
        for old, new in SHORTER.items():
            assert content.count(old) == 1
            content = content.replace(old, new)
        path.write_text(content, encoding="utf-8")
    settings = home / "settings" / "@jupyterlab"
    for extension, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},  # or only the visible cells would be in the page
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        file = settings / f"{extension}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    token = secrets.token_hex(16)
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTER_TOKEN": token}
    environment |= {"FMNIST_RUNS_DIR": str(home / "runs"), "JUPYTER_RUNTIME_DIR": str(home / "runtime")}
    words = ["--no-browser", "--allow-root", "--ServerApp.port=0", f"--ServerApp.root_dir={home}"]
    command = [sys.executable, "-m", "jupyterlab", *words]
    with (home / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        yield _address(server, home, token)
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=20)
        server.kill()
        server.wait()


def _address(server, home, token):
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        for file in (home / "runtime").glob("jpserver-*.json"):
            with suppress(requests.ConnectionError, json.JSONDecodeError):  # it writes this file before it listens
                url = json.loads(file.read_text(encoding="utf-8"))["url"]
                assert requests.get(f"{url}api/status", params={"token": token}, timeout=10).ok
                assert requests.get(f"{url}api/status", timeout=10).status_code == 403, "open to everybody"
                return f"{url}lab/tree/notebooks/{{}}?token={token}&reset"
    raise AssertionError(f"JupyterLab did not start: {(home / 'log').read_text(encoding='utf-8')[-2000:]}")


def sessions(lab):
    """Return the server's sessions, a dict each, and what is needed to ask it for more: its address and token."""
    address, words = lab.split("lab/tree/")[0], {"token": lab.split("token=")[1].removesuffix("&reset")}
    return requests.get(f"{address}api/sessions", params=words, timeout=10).json(), address, words


def wait_for_kernel(lab, name, page):
    """Wait until the server has an idle kernel for the notebook: the page shows `idle` before there is any, too."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        states = [s["kernel"]["execution_state"] for s in sessions(lab)[0] if s["path"].endswith(name)]
        if states == ["idle"]:
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"no kernel for {name}: {states}")


def end_kernels(lab):
    """Each holds a TensorFlow and a data set: the next notebook is to have the memory for itself."""
    started, address, words = sessions(lab)
    for session in started:
        requests.delete(f"{address}api/sessions/{session['id']}", params=words, timeout=60)


def whole(page, path, width):
    """Keep a picture of the whole notebook at a width in pixels; on a narrow screen without the list of files."""
    page.set_viewport_size({"width": width, "height": 900})
    if width < 1200:
        page.keyboard.press("Control+B")
        page.wait_for_selector("#filebrowser", state="hidden")
    height = page.evaluate(HEIGHT)
    page.set_viewport_size({"width": width, "height": min(int(height) + 250, 16_000)})
    page.evaluate("() => { document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0 }")
    page.wait_for_timeout(500)
    page.screenshot(path=path)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_all_cells_run_and_what_a_learner_sees_is_whole(path, lab, chromium):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(lab.format(path.name), timeout=60_000)
    page.wait_for_function(f"{len(cells)} === ({PROMPTS})().length", timeout=60_000)
    # a restart asked for while the kernel is still starting is never answered (seen in 2 of 8 tries): wait, then run
    wait_for_kernel(lab, path.name, page)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    shares, points, until, wanted = (
        set(),
        set(),
        time.monotonic() + SECONDS,
        [f"[{n}]:" for n in range(1, len(cells) + 1)],
    )
    ran = False
    while time.monotonic() < until:
        shares.update(page.evaluate(MOVES))
        points.update(page.evaluate(CURVE))
        prompts = page.evaluate(PROMPTS)
        ran = ran or "[*]:" in prompts
        assert not page.locator(".jp-Dialog").count(), f"a question: {page.locator('.jp-Dialog').inner_text()}"
        assert not page.locator("[data-mime-type='application/vnd.jupyter.error']").count(), "a cell failed"
        if ran and prompts == wanted:
            break
        page.wait_for_timeout(200)
    else:
        raise AssertionError(f"not done after {SECONDS} s: {prompts}")

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for width in (1400, 1024):
        whole(page, SCREENSHOTS / f"{path.stem}-{width}.png", width)
        assert not page.evaluate(TOO_WIDE), f"cut off at {width} pixels"
        assert not page.evaluate(CODE_CUT_OFF), f"code is cut off at {width} pixels"
    assert not page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count(), "stderr was shown"
    stored = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    pictures = page.evaluate(PICTURES)
    assert len(pictures) == stored and min(pictures) > 100, "a figure is missing"
    if path.name.startswith("03"):
        assert len(shares) > 5 and max(shares) == 1, f"the bar did not move: {sorted(shares)}"
        assert len(points) > 5, f"the curve did not grow: {sorted(points)}"
    page.close()
    end_kernels(lab)
