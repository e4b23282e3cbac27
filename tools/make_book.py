"""Make the book: build/book, a site of the notebooks as they are stored, the exercises, README and TEACHING.

Nothing is executed, and the pages ask no network. REPOSITORY, in the environment, is the project's address on
GitHub, to which the links lead that open a notebook on Binder; without it, git's `origin` is taken if it is there.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE, TARGET = ROOT / "build" / "book-source", ROOT / "build" / "book"
ADDRESS = r"https://github\.com/[^/\s]+/[^/\s]+"
MARK = "<!-- the notebooks, by tools/make_book.py -->"
TITLE = (
    r"# (?P<title>.+)\n\n(?P<hook>.+)\n\n\*\*You will learn\*\* (?P<learn>.+)\n\n"
    r".*\*\*Time\*\* (?P<minutes>\d+)"
)
CARD = """:::{{grid-item-card}} {title}
:link: notebooks/{name}
:link-type: doc
:columns: {columns}

{hook}

You will learn {learn}

```{{card-footer}}
{minutes} minutes
```
:::
"""


def repository():
    """Return the project's web address without a slash at its end, or an empty text where none is known."""
    address = os.environ.get("REPOSITORY", "")
    if not address and shutil.which("git"):
        command = ["git", "config", "--get", "remote.origin.url"]
        address = subprocess.run(command, cwd=ROOT, encoding="utf-8", capture_output=True).stdout.strip()
        address = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", address).removesuffix(".git")
        return address if re.fullmatch(ADDRESS, address) else ""
    if not address:
        return ""
    address = address.rstrip("/")
    if not re.fullmatch(ADDRESS, address):
        sys.exit(f"REPOSITORY is {address!r}; wanted: https://github.com/OWNER/NAME")
    return address


def cards(paths):
    """Return the front page's list of notebooks, from what each says of itself in its first cell."""
    found = []
    for path in paths:
        title = nbformat.read(path, as_version=4).cells[0].source
        parts = re.match(TITLE, title)
        if not parts:
            sys.exit(f"{path.name}: its first cell lacks a title, a sentence, **You will learn** or **Time**")
        alone = len(paths) % 2 and path == paths[-1]
        found.append(CARD.format(name=path.stem, columns="12" if alone else "12 12 6 6", **parts.groupdict()))
    return "::::{grid}\n:gutter: 3\n:margin: 0\n\n" + "\n".join(found) + "::::"


def exercises(path):
    """Return the notebook of exercises with its solutions, which are folded, as is what a check prints."""
    notebook = nbformat.read(path, as_version=4)
    answered = False
    for cell in notebook.cells:
        answered = answered or (cell.cell_type == "code" and "= ..." in cell.source)
        if "solution" in cell.metadata.get("tags", []):
            if cell.cell_type == "markdown":
                cell.source = f":::{{dropdown}} The solution in words\n{cell.source}\n:::"
            cell.metadata["tags"].append("hide-cell")
        elif answered and cell.cell_type == "code" and cell.outputs:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-output"]
            cell.metadata["mystnb"] = {f"code_prompt_{do.lower()}": f"{do} what it prints" for do in ("Show", "Hide")}
    return notebook


def lay_out(source):
    """Lay the book's pages into a folder, each where it stands in the project, so that links between them hold."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "notebooks" / "exercises").mkdir(parents=True)
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in paths:
        text = path.read_text(encoding="utf-8").replace("](solutions/", "](exercises/")  # one page has both
        (source / "notebooks" / path.name).write_text(text, encoding="utf-8")
    for path in sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb")):
        nbformat.write(exercises(path), source / "notebooks" / "exercises" / path.name)
    for name in ("README.md", "TEACHING.md"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "reference" / "figures", source / "reference" / "figures")
    (source / "index.md").write_text(
        (ROOT / "book" / "index.md").read_text(encoding="utf-8").replace(MARK, cards(paths)),
        encoding="utf-8",
    )


def main():
    os.environ["REPOSITORY"] = repository()
    lay_out(SOURCE)
    shutil.rmtree(TARGET, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", ROOT / "book", "-b", "html"]
    done = subprocess.run([*command, "-d", ROOT / "build" / "book-doctrees", "-E", SOURCE, TARGET])
    if done.returncode:
        sys.exit("The book was not built: Sphinx says why above.")
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(f"build/book/index.html: {len(list(TARGET.rglob('*.html')))} pages, {size / 1e6:.1f} MB")
    if not os.environ["REPOSITORY"]:
        print("without links to Binder, since the project's address is not known: make book REPOSITORY=https://...")


if __name__ == "__main__":
    main()
