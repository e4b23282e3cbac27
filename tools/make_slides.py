"""Make slides of the notebooks that open without a network: build/slides/NAME.slides.html.

What the pages need (reveal.js, MathJax for equations, jQuery, RequireJS) is fetched from npm once, in the versions
below, and laid beside them. Name notebooks to make only those.
"""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from traitlets.config import Config

from fmnist_utils import runs

TARGET = runs.ROOT / "build" / "slides"
PACKAGES = {"reveal.js": "4.6.0", "mathjax": "2.7.9", "jquery": "3.7.1", "requirejs": "2.3.8"}
MERMAID = (
    r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>'  # diagrams, of which there are none, from a CDN
)
STYLE = """<style>
.reveal h1, .reveal h2 { text-transform: none; }
.reveal .jp-InputPrompt, .reveal .jp-OutputPrompt { display: none; }
.reveal .jp-OutputArea-output img { max-height: 480px; max-width: 100%; width: auto; margin: 0; }
.reveal .jp-OutputArea-output pre, .reveal .highlight pre { font-size: 17px; }
.reveal .jp-RenderedHTML pre,
.reveal .jp-RenderedHTMLCommon.jp-OutputArea-output pre { font-size: 12px; line-height: 1.1; }
</style>
"""


def fetch_packages():
    """Lay the pinned npm packages into build/slides/assets, once. Exits with a message where npm cannot."""
    for name, version in PACKAGES.items():
        folder = TARGET / "assets" / f"{name}-{version}"
        if folder.is_dir():
            continue
        if not shutil.which("npm"):
            sys.exit("npm is needed to fetch reveal.js (Debian, Ubuntu: apt install npm).")
        incoming = TARGET / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        done = subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"], cwd=incoming, encoding="utf-8", capture_output=True
        )
        if done.returncode:
            sys.exit(f"npm could not fetch {name} {version}: {done.stderr.strip()[-300:]}")
        with tarfile.open(incoming / done.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(incoming, filter="data")
        folder.parent.mkdir(exist_ok=True)
        (incoming / "package").rename(folder)
        shutil.rmtree(incoming)


def exporter():
    here = {name: f"assets/{name}-{version}" for name, version in PACKAGES.items()}
    settings = {
        "reveal_url_prefix": here["reveal.js"],
        "reveal_theme": "white",
        "reveal_transition": "none",
        "reveal_number": "c/t",
        "reveal_width": "1280",
        "reveal_height": "860",
        "reveal_scroll": True,
        "mathjax_url": here["mathjax"] + "/MathJax.js?config=TeX-AMS_CHTML-full,Safe",
        "jquery_url": here["jquery"] + "/dist/jquery.min.js",
        "require_js_url": here["requirejs"] + "/require.js",
        "font_awesome_url": "",
    }
    return SlidesExporter(config=Config(SlidesExporter=settings))


def main():
    fetch_packages()
    folder = runs.ROOT / "notebooks"
    for path in [folder / Path(name).name for name in sys.argv[1:]] or sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        page, _ = exporter().from_notebook_node(notebook, resources={"metadata": {"name": path.stem}})
        page = re.sub(MERMAID, "", page, flags=re.DOTALL).replace("</head>", f"{STYLE}</head>", 1)
        (TARGET / f"{path.stem}.slides.html").write_text(page, encoding="utf-8")
        print(f"build/slides/{path.stem}.slides.html")


if __name__ == "__main__":
    main()
