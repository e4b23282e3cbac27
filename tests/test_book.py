"""The book opens from files without a network, and nothing in it is cut off; solutions are folded.

The slow tests build it and look at it in a browser. Screenshots are kept in build/screenshots/book.
"""

import os
import subprocess
import sys

import make_book  # tools/, see conftest.py
import nbformat
import pytest
from test_browser import PATHS, SCREENSHOTS, chromium  # noqa: F401, a fixture

REPOSITORY = "https://github.com/someone/a-copy"
SOLUTIONS = sorted((make_book.ROOT / "notebooks" / "solutions").glob("*[a-z].ipynb"))
NAMES = ["index", "README", "TEACHING", *(f"notebooks/{path.stem}" for path in PATHS)]
NAMES += [f"notebooks/exercises/{path.stem}" for path in SOLUTIONS]
CUT_OFF = """() => [document.documentElement, ...document.querySelectorAll('main *')].filter(part => {
    if (part.closest('.bd-sidebar-secondary')) return false;  // a drawer, which waits outside of a narrow window
    const box = part.getBoundingClientRect(); let room = part.parentElement;
    if (!box.width || box.right <= innerWidth + 1 || part.closest('mjx-assistive-mml, .visually-hidden')) return false;
    for (; room && room !== document.body; room = room.parentElement)
        if (['auto', 'scroll'].includes(getComputedStyle(room).overflowX) && room.clientWidth <= innerWidth
            && room.matches('pre, .highlight, .output, .pst-scrollable-table-container, .math')) return false;
    return true }).map(part => part.outerHTML.slice(0, 90))"""
UNTOLD = """() => [...document.images].filter(picture => !picture.naturalWidth || picture.src.includes('/_images/') &&
    picture.alt.split(' ').length < 8).map(picture => picture.src)"""
BACKGROUND = """() => getComputedStyle(document.body).backgroundColor"""


@pytest.fixture(scope="module")
def book():
    pytest.importorskip("myst_nb", reason="Sphinx and its parts are not installed: requirements-dev.txt")
    environment = os.environ | {"REPOSITORY": REPOSITORY}
    subprocess.run([sys.executable, make_book.__file__], env=environment, check=True)
    return make_book.TARGET


@pytest.mark.parametrize(
    ("given", "origin", "address"),
    [("", "git@github.com:someone/a-copy.git", REPOSITORY), ("", f"{REPOSITORY}.git", REPOSITORY),
     ("", "/a/folder", ""), (f"{REPOSITORY}/", "/a/folder", REPOSITORY), ("someone/a-copy", REPOSITORY, None)],
)  # fmt: skip
def test_the_address_is_the_one_given_or_gits_origin(monkeypatch, tmp_path, given, origin, address):
    monkeypatch.setenv("REPOSITORY", given)
    monkeypatch.setattr(make_book, "ROOT", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "remote", "add", "origin", origin], cwd=tmp_path, check=True)
    if address is None:
        with pytest.raises(SystemExit, match=r"'someone/a-copy'; wanted: https://github\.com/OWNER/NAME"):
            make_book.repository()
    else:
        assert make_book.repository() == address


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_are_folded_and_what_a_check_prints_too(path):
    for cell, before in zip(make_book.exercises(path).cells, nbformat.read(path, as_version=4).cells, strict=True):
        tags = cell.metadata["tags"]
        if "solution" in tags:
            assert "hide-cell" in tags if cell.cell_type == "code" else cell.source.startswith(":::{dropdown}")
        else:
            assert "hide-cell" not in tags and cell.source == before.source
            assert "hide-output" in tags or not (cell.id.endswith("-check") and before.outputs)


@pytest.mark.slow
def test_the_book_has_every_page_with_a_link_to_binder(book):
    pages = {str(path.relative_to(book).with_suffix("")): path for path in book.rglob("*.html")}
    assert {name for name in pages if not name.startswith("_static")} == {*NAMES, "search"}
    for name in NAMES[3:]:
        binder = f"https://mybinder.org/v2/gh/someone/a-copy/HEAD?urlpath=lab/tree/{name}.ipynb"
        assert binder in pages[name].read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_no_network_and_nothing_is_cut_off(name, book, chromium):  # noqa: F811
    page, asked, wrong = chromium.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((book / f"{name}.html").as_uri())
    page.evaluate("() => document.querySelectorAll('main details').forEach(part => { part.open = true })")
    if 'class="math' in page.content():
        page.wait_for_selector("mjx-container svg", timeout=60_000)
    backgrounds = set()
    for theme, width in (("light", 1400), ("dark", 1400), ("light", 390)):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        backgrounds.add(page.evaluate(BACKGROUND))
        shown = SCREENSHOTS / "book" / f"{name.replace('/', '-')}-{theme}-{width}.png"
        page.screenshot(path=shown, full_page=True)
        assert page.evaluate(CUT_OFF) == [], f"{width} pixels"
    assert len(backgrounds) == 2, "dark looks like light"
    assert page.evaluate(UNTOLD) == [], "a picture is not there, or not told in words"
    assert not wrong and not [url for url in asked if not url.startswith(("file:", "data:"))]
    page.close()


@pytest.mark.slow
def test_the_search_finds_a_term_of_a_notebook(book, chromium):  # noqa: F811
    page = chromium.new_page()
    page.goto(f"{(book / 'search.html').as_uri()}?q=Grad-CAM")
    page.locator("#search-results li a[href*='06_']").first.wait_for(timeout=60_000)
    page.close()
