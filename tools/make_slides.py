"""Make slides of the notebooks that open without a network: build/slides/NAME.slides.html.

What the pages need is fetched from npm once and laid beside them. A heading begins a slide, a further text one below.
"""

import re
import subprocess
import sys

import nbformat
from nbconvert import SlidesExporter

from fmnist_utils import runs

TARGET = runs.ROOT / "build" / "slides"
PACKAGES = ("reveal.js@4.6.0", "mathjax@2.7.9", "jquery@3.7.1", "requirejs@2.3.8")
NPM = "npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix . " + " ".join(PACKAGES)
MERMAID = r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>'  # for diagrams, which are none, from a CDN
STYLE = """<style>
.reveal h1, .reveal h2 { text-transform: none; }
.reveal .jp-InputPrompt, .reveal .jp-OutputPrompt { display: none; }
.reveal .jp-OutputArea-output img { max-height: 480px; max-width: 100%; width: auto; margin: 0; }
.reveal .jp-OutputArea-output pre, .reveal .highlight pre { font-size: 17px; }
.reveal .jp-RenderedHTML pre,
.reveal .jp-RenderedHTMLCommon.jp-OutputArea-output pre { font-size: 12px; line-height: 1.1; }
</style>
</head>"""
SETTINGS = {
    "reveal_url_prefix": "node_modules/reveal.js", "reveal_theme": "white", "reveal_transition": "none",
    "reveal_number": "c/t", "reveal_width": "1280", "reveal_height": "860", "reveal_scroll": True,
    "mathjax_url": "node_modules/mathjax/MathJax.js?config=TeX-AMS_CHTML-full,Safe", "font_awesome_url": "",
    "jquery_url": "node_modules/jquery/dist/jquery.min.js", "require_js_url": "node_modules/requirejs/require.js",
}  # fmt: skip


def slide_type(cell, begun):
    if cell.cell_type == "markdown" and cell.source.startswith("#"):
        return "slide"
    if not begun:  # imports and parameters
        return "skip"
    return "subslide" if cell.cell_type == "markdown" and not cell.source.startswith("**In words.**") else "-"


TARGET.mkdir(parents=True, exist_ok=True)
if not (TARGET / "node_modules").is_dir() and subprocess.run(NPM, shell=True, cwd=TARGET).returncode:
    sys.exit("npm could not fetch reveal.js. It needs npm (Debian, Ubuntu: apt install npm) and a network, once.")
for path in sorted((runs.ROOT / "notebooks").glob("[0-9][0-9]_*[a-z].ipynb")):
    notebook, begun, cells = nbformat.read(path, as_version=4), False, []
    for cell in notebook.cells:  # a heading within a cell, and what follows on a figure's words, begin a slide too
        texts = re.split(r"\n\n(?=## )", cell.source) if cell.cell_type == "markdown" else [cell.source]
        if texts[0].startswith("**In words.**"):
            texts[:1] = texts[0].split("\n\n", 1)
        for text in texts:
            begun = begun or text.startswith("## ")
            cells.append(nbformat.from_dict({**cell, "source": text, "id": f"slide-{len(cells)}"}))
            cells[-1].metadata = {"slideshow": {"slide_type": slide_type(cells[-1], begun)}}
    notebook.cells = cells
    page, _ = SlidesExporter(**SETTINGS).from_notebook_node(notebook, resources={"metadata": {"name": path.stem}})
    page = re.sub(MERMAID, "", page, flags=re.DOTALL).replace("</head>", STYLE, 1)
    (TARGET / f"{path.stem}.slides.html").write_text(page, encoding="utf-8")
    print(f"build/slides/{path.stem}.slides.html")
