"""Execute the committed notebooks from fresh kernels and store them with their outputs, free of a machine's traces.

03 trains with its committed defaults; its run becomes the reference run in reference/, which 04 then judges. The
exercises are made anew from the solutions. Name notebooks, or the folder `solutions`, to store only those.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import make_exercises
import nbformat
from nbclient import NotebookClient

from fmnist_utils import runs
from fmnist_utils._files import atomic_write

NOTEBOOKS = runs.ROOT / "notebooks"
FIGURES = ("confusion_matrix.png", "wrong.png")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def store(path):
    """Execute one notebook and write it back in place; it stays as it was when a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": path.parent}})
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in ("tags", "slideshow")})
    nbformat.validate(notebook)
    with atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def main():
    every = [*sorted(NOTEBOOKS.glob("*.ipynb")), *sorted(make_exercises.SOLUTIONS.glob("*.ipynb"))]
    named = {(NOTEBOOKS / name).resolve() for name in sys.argv[1:]}  # a file, or a folder of them
    wanted = [path for path in every if not named or path in named or path.parent in named - {NOTEBOOKS}]
    if not wanted:
        sys.exit(f"no such notebook: {' '.join(sys.argv[1:])}. Names are such as 03_training.ipynb or solutions")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"FMNIST_RUNS_DIR": folder, "FMNIST_DEFAULT_RUN": runs.REFERENCE.name}
        os.environ.pop("JPY_SESSION_NAME", None)
        for path in wanted:
            store(path)
            if path.parent == NOTEBOOKS and path.name.startswith("03"):
                new_reference(Path(folder))
            if path.parent == NOTEBOOKS and path.name.startswith("04"):
                judged = Path(folder) / runs.REFERENCE.name
                for file in (runs.TEST, runs.TEST_METRICS):
                    shutil.copy(judged / file, runs.REFERENCE / file)
                for file in FIGURES:  # the README shows these
                    (runs.REFERENCE / "figures").mkdir(exist_ok=True)
                    shutil.copy(judged / "figures" / file, runs.REFERENCE / "figures" / file)
    make_exercises.main()


def new_reference(folder):
    trained = next(path.parent for path in folder.glob(f"*/{runs.METRICS}") if path.parent.name != runs.REFERENCE.name)
    shutil.rmtree(runs.REFERENCE, ignore_errors=True)
    runs.REFERENCE.mkdir()
    for path in trained.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, runs.REFERENCE / path.name)


if __name__ == "__main__":
    main()
