"""The slides of each notebook open without a network, and nothing on them is cut off. Needs npm, and a browser."""

import shutil
import subprocess
import sys

import pytest
from test_browser import PATHS, SCREENSHOTS, chromium  # noqa: F401, a fixture

from fmnist_utils import runs

pytestmark = pytest.mark.slow
SLIDE = "document.querySelector('section.present section.present') || document.querySelector('section.present')"
TOO_LARGE = f"""() => {{ const slide = {SLIDE}, most = getComputedStyle(slide).overflowY === 'scroll' ? 1750 : 875;
    return slide.scrollHeight > most || slide.scrollWidth > slide.clientWidth + 1
    || [...slide.querySelectorAll('pre, img')].some(part => part.scrollWidth > part.clientWidth + 1
    || part.getBoundingClientRect().right > innerWidth) }}"""
UNSET = f"() => [...({SLIDE}).querySelectorAll('.mjx-chtml')].every(part => part.offsetHeight > 5)"
DECK = """() => require([document.querySelector('link[href$="reveal.css"]').getAttribute('href')
    .replace('reveal.css', 'reveal.js')], deck => { window.Deck = deck })"""
NEXT = """() => { const old = Deck.getCurrentSlide(); do Deck.next(); while (
    Deck.getCurrentSlide() === old && !(Deck.isLastSlide() && !Deck.availableFragments().next)) }"""


@pytest.fixture(scope="module")
def slides():
    """Make them all; return their folder."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed: it fetches reveal.js, once")
    subprocess.run([sys.executable, runs.ROOT / "tools" / "make_slides.py"], check=True)
    return runs.ROOT / "build" / "slides"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_slides_are_whole_and_ask_no_network(path, slides, chromium):  # noqa: F811
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((slides / f"{path.stem}.slides.html").as_uri())
    page.wait_for_function("() => document.querySelector('.reveal.ready') && MathJax.isReady", timeout=60_000)
    page.evaluate(DECK)
    page.wait_for_function("() => window.Deck", timeout=60_000)
    count, large = page.evaluate("() => Deck.getTotalSlides()"), []
    for number in range(count):
        page.evaluate("() => new Promise(done => MathJax.Hub.Queue(() => setTimeout(done, 100)))")
        page.wait_for_function(UNSET, timeout=30_000)  # a busy machine draws formulas after the queue is empty
        page.screenshot(path=SCREENSHOTS / f"slide-{path.stem}-{number:02d}.png")
        large += [number] if page.evaluate(TOO_LARGE) else []
        page.evaluate(NEXT)
    assert count > 5 and not large, f"cut off, or too much for one slide: {large}"
    assert not wrong and not [url for url in asked if not url.startswith(("file:", "data:"))]
    page.close()
