"""Sphinx's settings for the book; tools/make_book.py lays out its sources and calls Sphinx."""

import importlib.metadata
import os

from docutils import nodes
from sphinx.errors import ExtensionError

MATHJAX = importlib.metadata.distribution("sphinx-mathjax-offline").locate_file(
    "sphinx-mathjax-offline/static/mathjax/tex-svg.js"  # one file, with its fonts: it asks no network
)
REPOSITORY = os.environ.get("REPOSITORY", "")

project = "Fashion-MNIST in notebooks"
language = "en-GB"
root_doc = "index"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]

nb_execution_mode = "off"  # what is shown is what is stored
suppress_warnings = ["misc.highlighting_failure"]  # of a notebook's lines such as %cd and !git
nb_code_prompt_show = "Show the solution"
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_update_mathjax = False
mathjax_path = MATHJAX.name

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["style.css", str(MATHJAX)]
html_css_files = ["style.css"]
html_copy_source = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses for file://
html_use_index = False  # there is nothing in it
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system has it
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],
    "footer_content_items": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_repository_button": bool(REPOSITORY),
    "repository_url": REPOSITORY,
    "repository_branch": "HEAD",
    "path_to_docs": "",
    "launch_buttons": {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
    if REPOSITORY
    else {},
}


def describe_figures(app, doctree):
    """Give each figure of a notebook the words that follow it as its text alternative.

    They stand below the figure for everybody, as the paragraph that begins with "In words.", so there is one text to
    keep true. Raises ExtensionError for a figure without one.
    """
    cells = [cell for cell in doctree.findall(nodes.container) if cell.get("nb_element") == "cell_code"]
    everything = list(doctree.findall())
    for cell in cells:
        figures = list(cell.findall(nodes.image))
        if not figures:
            continue
        later = everything[everything.index(figures[-1]) :]
        words = next((node.astext() for node in later if is_words(node)), None)
        heading = next((node for node in later if isinstance(node, nodes.section)), None)
        if words is None or (heading is not None and words not in heading.parent.astext()):
            raise ExtensionError(
                f"{app.env.docname}: a figure without a paragraph **In words.** after it: {cell.astext()}"
            )
        for number, figure in enumerate(figures, 1):
            of_several = f"Figure {number} of {len(figures)}. " if len(figures) > 1 else ""
            figure["alt"] = of_several + " ".join(words.removeprefix("In words.").split())


def is_words(node):
    """Tell whether a node is the description of a figure."""
    return isinstance(node, nodes.paragraph) and node.astext().startswith("In words.")


def setup(app):
    """Describe the figures once a page is read (called by Sphinx)."""
    app.connect("doctree-read", describe_figures)
