"""The slides of each notebook open without a network, and nothing on them is cut off.

Needs npm, for reveal.js on the first time, and a browser as in test_browser.
"""

import re

import pytest
from test_browser import PATHS, SCREENSHOTS, chromium  # noqa: F401, a fixture

from fmnist_utils import runs

pytestmark = pytest.mark.slow
SIZES = """() => { const slide = document.querySelector('section.present section.present') ||
    document.querySelector('section.present'); const style = getComputedStyle(slide);
    return [slide.scrollHeight, slide.scrollWidth, slide.clientWidth, style.overflowY] }"""
CUT_OFF = """() => [...document.querySelectorAll('section.present pre, section.present img')].filter(part =>
    part.scrollWidth > part.clientWidth + 1 ||
    part.getBoundingClientRect().right > innerWidth
    ).map(part => part.textContent.slice(0, 80))"""
EQUATIONS = """() => [...document.querySelectorAll('section.present:not(.stack) .mjx-chtml')].map(
    part => part.offsetHeight)"""
NEXT = """() => { const old = Deck.getCurrentSlide(); do Deck.next(); while (
    Deck.getCurrentSlide() === old && !(Deck.isLastSlide() && !Deck.availableFragments().next)) }"""


@pytest.fixture(scope="module")
def slides():
    """Make them all; return their folder."""
    pytest.MonkeyPatch().syspath_prepend(runs.ROOT / "tools")
    import make_slides

    try:
        make_slides.fetch_packages()
    except SystemExit as error:
        pytest.skip(f"{error.code} These are needed once, from a network.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["make_slides"])
        make_slides.main()
    return make_slides.TARGET


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_slides_are_whole_and_ask_no_network(path, slides, chromium):  # noqa: F811
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    asked, wrong, equations = [], [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((slides / f"{path.stem}.slides.html").as_uri())
    page.wait_for_function("() => document.querySelector('.reveal.ready')", timeout=60_000)
    page.wait_for_function("() => window.MathJax && MathJax.isReady", timeout=60_000)
    page.evaluate("() => require([document.querySelector('link[href$=\"reveal.css\"]').getAttribute('href')"
                  ".replace('reveal.css', 'reveal.js')], deck => { window.Deck = deck })")  # fmt: skip
    page.wait_for_function("() => window.Deck", timeout=60_000)
    count = page.evaluate("() => Deck.getTotalSlides()")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        page.evaluate("() => new Promise(done => MathJax.Hub.Queue(() => setTimeout(done, 100)))")
        page.screenshot(path=SCREENSHOTS / f"slide-{path.stem}-{number:02d}.png")
        height, width, room, overflow = page.evaluate(SIZES)
        assert height <= 875 or (overflow == "scroll" and height < 2 * 875), f"slide {number}: {height} pixels high"
        assert width <= room + 1, f"slide {number} is cut off at its right"
        assert not page.evaluate(CUT_OFF), f"slide {number}"
        if page.evaluate(EQUATIONS):  # a busy machine draws them after MathJax's queue is empty
            page.wait_for_function(f"() => Math.max(...({EQUATIONS})()) > 5", timeout=30_000)
        equations += page.evaluate(EQUATIONS)
        page.evaluate(NEXT)
    assert count > 9 and not wrong
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    if re.search(r"\$\$", path.read_text(encoding="utf-8")):
        assert max(equations, default=0) > 20, "an equation is not set"
    page.close()
