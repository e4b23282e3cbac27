"""Make the book: build/book, a site of the notebooks as they are stored, the exercises, README and TEACHING.

Nothing is executed, and the pages ask no network. REPOSITORY: the address on GitHub, by default git's `origin`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from fmnist_utils.pipeline import NOTEBOOKS
from fmnist_utils.runs import ROOT

SOURCE, TARGET = ROOT / "build" / "book-source", ROOT / "build" / "book"


def repository():
    """Return the project's address on GitHub, or an empty text where none is known."""
    given = os.environ.get("REPOSITORY", "").rstrip("/")
    git = subprocess.run("git config --get remote.origin.url", shell=True, cwd=ROOT, capture_output=True)
    origin = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", git.stdout.decode().strip()).removesuffix(".git")
    address = given or origin
    if re.fullmatch(r"https://github\.com/[^/\s]+/[^/\s]+", address):
        return address
    if given:
        sys.exit(f"REPOSITORY is {given!r}; wanted: https://github.com/OWNER/NAME")
    return ""


def listed(paths):
    """Return the front page's list of some notebooks, from what each says of itself in its first cell."""
    lines = []
    for path in paths:
        first = nbformat.read(path, as_version=4).cells[0].source
        title, hook, minutes = re.match(r"# (.+)\n\n(.+)\n[\s\S]*\*\*Time\*\* (\d+)", first).groups()
        lines.append(f"- **[{title}](notebooks/{path.name})**, {minutes} minutes\\\n  {hook}")
    return "\n".join(lines)


def exercises(path):
    """Return the notebook of exercises with its solutions, which are folded, as is what a check prints."""
    notebook, asked = nbformat.read(path, as_version=4), False
    for cell in notebook.cells:
        asked = asked or (cell.cell_type == "code" and "= ..." in cell.source)
        tags = cell.metadata.setdefault("tags", [])
        if "solution" in tags:
            tags.append("hide-cell")
            if cell.cell_type == "markdown":
                cell.source = f":::{{dropdown}} The solution in words\n{cell.source}\n:::"
        elif asked and cell.cell_type == "code" and cell.outputs:
            tags.append("hide-output")
            cell.metadata["mystnb"] = {f"code_prompt_{do.lower()}": f"{do} what it prints" for do in ("Show", "Hide")}
    return notebook


def lay_out(address):
    """Lay the book's pages out, each where it stands in the project, so that links between them hold."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    (SOURCE / "notebooks" / "exercises").mkdir(parents=True)
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*[a-z].ipynb"))
    for path in paths:
        text = path.read_text(encoding="utf-8").replace("](solutions/", "](exercises/")  # one page has both
        (SOURCE / "notebooks" / path.name).write_text(text, encoding="utf-8")
    for path in (ROOT / "notebooks" / "solutions").glob("*.ipynb"):
        nbformat.write(exercises(path), SOURCE / "notebooks" / "exercises" / path.name)
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "TEACHING.md", "book/index.md")}
    for image in re.findall(r"!\[.*?\]\((.+?)\)", "".join(pages.values())):
        (SOURCE / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / image, SOURCE / image)

    def link(found):  # to what is not in the book: the repository has it
        if found[2] in pages or (SOURCE / found[2]).exists():
            return found[0]
        return f"[{found[1]}]({address}/blob/HEAD/{found[2]})" if address else found[1]

    for name, page in pages.items():
        page = re.sub(r"(?<!!)\[([^]]+)\]\((?!http|#)([^)]+)\)", link, page)
        page = page.replace("<!-- path -->", listed([path for path in paths if path.stem in NOTEBOOKS]))
        page = page.replace("<!-- depth -->", listed([path for path in paths if path.stem not in NOTEBOOKS]))
        (SOURCE / Path(name).name).write_text(page, encoding="utf-8")


def main():
    os.environ["REPOSITORY"] = address = repository()
    lay_out(address)
    shutil.rmtree(TARGET, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", ROOT / "book", "-b", "html"]
    if subprocess.run([*command, "-d", ROOT / "build" / "book-doctrees", "-E", SOURCE, TARGET]).returncode:
        sys.exit("The book was not built: Sphinx says why above.")
    print("build/book/index.html" + ("" if address else ", without links to Binder: see make help"))


if __name__ == "__main__":
    main()
