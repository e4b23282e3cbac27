"""The book opens from files without a network: every page and link, each figure told in words, nothing cut off.

The slow tests build it, with an address of a repository, and look at it in a browser as in test_browser. Screenshots
are kept in build/screenshots/book.
"""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlparse

import nbformat
import pytest
from shipped import shipped
from test_browser import PATHS, SCREENSHOTS, chromium  # noqa: F401, a fixture

from fmnist_utils import runs

REPOSITORY = "https://github.com/someone/a-copy"
BOOK = runs.ROOT / "build" / "book"
SOLUTIONS = shipped("notebooks/solutions/*.ipynb")
NAMES = ["index", "README", "TEACHING", *(f"notebooks/{path.stem}" for path in PATHS)]
NAMES += [f"notebooks/exercises/{path.stem}" for path in SOLUTIONS] + ["search"]
WIDE = """() => document.scrollingElement.scrollWidth - innerWidth"""
CUT_OFF = """() => [...document.querySelectorAll('main *')].filter(part => {
    if (part.closest('.bd-sidebar-secondary')) return false;  // a drawer, which waits outside of a narrow window
    const box = part.getBoundingClientRect(); let room = part.parentElement;
    if (!box.width || box.right <= innerWidth + 1 || part.closest('mjx-assistive-mml, .visually-hidden')) return false;
    for (; room && room !== document.body; room = room.parentElement)
        if (['auto', 'scroll'].includes(getComputedStyle(room).overflowX) && room.clientWidth <= innerWidth
            && room.matches('pre, .highlight, .output, .pst-scrollable-table-container, .math')) return false;
    return true }).map(part => part.outerHTML.slice(0, 90))"""
PICTURES = """() => [...document.images].map(picture => [picture.alt, picture.naturalWidth, picture.src])"""
BACKGROUND = """() => getComputedStyle(document.body).backgroundColor"""


class Page(HTMLParser):
    """What a page links to, the places in it that can be linked to, and the texts of its figures."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places, self.loaded, self.alts = [], {""}, [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places.add(found.get("id", ""))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("img", "script", "iframe") and found.get("src"):
            self.loaded.append(found["src"])
        if tag == "link" and found.get("rel") not in ("canonical", "index", "search", "next", "prev"):
            self.loaded.append(found["href"])
        if tag == "img" and "/_images/" in f"/{found['src']}":
            self.alts.append(found.get("alt", ""))


@pytest.fixture(scope="module")
def book():
    """Make it; return its pages by their paths."""
    pytest.importorskip("myst_nb", reason="Sphinx and its parts are not installed: requirements-dev.txt")
    command = [sys.executable, "tools/make_book.py"]
    done = subprocess.run(
        command, cwd=runs.ROOT, env=os.environ | {"REPOSITORY": REPOSITORY}, encoding="utf-8", capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in sorted(BOOK.rglob("*.html")) if "_static" not in path.parts}


@pytest.fixture
def maker(monkeypatch):
    monkeypatch.syspath_prepend(runs.ROOT / "tools")
    import make_book

    return make_book


def test_a_repository_that_is_not_on_github_is_refused(maker, monkeypatch):
    monkeypatch.setenv("REPOSITORY", f"{REPOSITORY}/")
    assert maker.repository() == REPOSITORY
    monkeypatch.setenv("REPOSITORY", "someone/a-copy")
    with pytest.raises(SystemExit, match=r"'someone/a-copy'; wanted: https://github\.com/OWNER/NAME"):
        maker.repository()


@pytest.mark.parametrize("origin", ["git@github.com:someone/a-copy.git", f"{REPOSITORY}.git", "/a/folder"])
def test_without_one_git_s_origin_is_taken_if_it_is_there(maker, monkeypatch, tmp_path, origin):
    monkeypatch.delenv("REPOSITORY", raising=False)
    monkeypatch.setattr(maker, "ROOT", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "remote", "add", "origin", origin], cwd=tmp_path, check=True)
    assert maker.repository() == ("" if origin.startswith("/") else REPOSITORY)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_are_folded_and_what_a_check_prints_too(maker, path):
    stored, shown = nbformat.read(path, as_version=4), maker.exercises(path)
    solved = 0
    for cell, before in zip(shown.cells, stored.cells, strict=True):
        tags = set(cell.metadata.get("tags", []))
        if "solution" in tags:
            solved += 1
            assert "hide-cell" in tags if cell.cell_type == "code" else cell.source.startswith(":::{dropdown}")
        elif cell.id.endswith("-check"):
            assert "hide-output" in tags and cell.outputs == before.outputs
        else:
            assert "hide-cell" not in tags and cell.source == before.source
    assert solved


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_figure_of_the_solutions_is_told_in_words(path):
    cells = nbformat.read(path, as_version=4).cells
    for place, cell in enumerate(cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert cells[place + 1].source.startswith("**In words.**"), cell.id


@pytest.mark.slow
def test_the_book_is_whole_and_small(book):
    assert {str(path.relative_to(BOOK).with_suffix("")) for path in book} == set(NAMES)
    assert sum(path.stat().st_size for path in BOOK.rglob("*") if path.is_file()) < 15e6


@pytest.mark.slow
def test_every_link_and_place_is_there_and_every_file_that_a_page_loads(book):
    checked = 0
    for path, page in book.items():
        for link in page.links + page.loaded:
            address, place = urldefrag(link)
            if urlparse(address).scheme or address.startswith("//"):
                assert link in page.links, f"{path.name} loads {link}"
                continue
            target = (path.parent / unquote(address).split("?")[0]).resolve() if address else path
            assert target.is_file(), f"{path.name}: {link}"
            if place and target in book:
                assert unquote(place) in book[target].places, f"{path.name}: {link}"
            checked += 1
    assert checked > 1000


@pytest.mark.slow
def test_each_figure_has_the_words_below_it_as_its_text_alternative(book):
    stored = 0
    for path in [*PATHS, *SOLUTIONS]:
        folder = "notebooks/exercises" if path in SOLUTIONS else "notebooks"
        alts = book[BOOK / folder / f"{path.stem}.html"].alts
        outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
        assert len(alts) == sum("image/png" in output.get("data", {}) for output in outputs)
        assert all(len(alt.split()) >= 10 and "In words" not in alt for alt in alts)
        stored += len(alts)
    assert stored > 30 and all(alt for page in book.values() for alt in page.alts)
    several = book[BOOK / "notebooks/06_look_inside.html"].alts
    assert any(alt.startswith("Figure 2 of 2. Two figures of four rows: ") for alt in several)


@pytest.mark.slow
def test_each_notebook_and_exercise_opens_on_binder(book):
    for path, page in book.items():
        opened = [link for link in page.links if "mybinder.org" in link]
        if "notebooks" in path.parts:
            name = path.relative_to(BOOK).with_suffix(".ipynb")
            assert (runs.ROOT / name).is_file()
            assert opened == [f"https://mybinder.org/v2/gh/someone/a-copy/HEAD?urlpath=lab/tree/{name}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_no_network_and_nothing_is_cut_off(name, book, chromium):  # noqa: F811
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.goto((BOOK / f"{name}.html").as_uri())
    page.wait_for_load_state("load")
    (SCREENSHOTS / "book").mkdir(parents=True, exist_ok=True)
    for part in page.locator("main details").all():
        part.evaluate("part => { part.open = true }")
    backgrounds = set()
    for theme, width in (("light", 1400), ("dark", 1400), ("light", 390)):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        backgrounds.add(page.evaluate(BACKGROUND))
        if "$$" in book[BOOK / f"{name}.html"].text or 'class="math' in book[BOOK / f"{name}.html"].text:
            page.wait_for_selector("mjx-container svg", timeout=60_000)
        shown = SCREENSHOTS / "book" / f"{name.replace('/', '-')}-{theme}-{width}.png"
        page.screenshot(path=shown, full_page=True)
        assert page.evaluate(WIDE) <= 0, f"{width} pixels: the page is wider than the window"
        assert page.evaluate(CUT_OFF) == [], f"{width} pixels"
    assert len(backgrounds) == 2, "dark looks like light"
    assert all(width > 0 for _, width, _ in page.evaluate(PICTURES))
    assert not wrong and [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


@pytest.mark.slow
def test_the_search_finds_a_term_of_a_notebook(book, chromium):  # noqa: F811
    page = chromium.new_page()
    page.goto(f"{(BOOK / 'search.html').as_uri()}?q=Grad-CAM")
    found = page.locator("#search-results li a")
    found.first.wait_for(timeout=60_000)
    assert any(re.search("06_look_inside", link.get_attribute("href")) for link in found.all())
    page.close()
