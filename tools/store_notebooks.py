"""Execute the committed notebooks from fresh kernels and store them with their outputs, free of a machine's traces.

03's run becomes the reference run, which 04 then judges; the exercises are made anew from the solutions. To store only
some, name them within notebooks/: 06_look_inside.ipynb solutions/06_look_inside.ipynb.
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
from fmnist_utils.pipeline import EVALUATION, FOLDER, TRAINING, defaults

LANGUAGE = {"name": "python", "file_extension": ".py", "nbconvert_exporter": "python"}  # for nbconvert --to script
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def store(path):
    """Execute one notebook and write it back in place; it stays as it was when a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": path.parent}}).execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in ("tags", "slideshow")})
    with runs.atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def main():
    made = {TRAINING: defaults(TRAINING)["run_name"], EVALUATION: runs.REFERENCE.name}
    every = [*sorted(FOLDER.glob("[0-9][0-9]_*[a-z].ipynb")), *sorted(FOLDER.glob("solutions/*[a-z].ipynb"))]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"FMNIST_RUNS_DIR": folder, "FMNIST_DEFAULT_RUN": runs.REFERENCE.name}
        os.environ |= {"IPYTHONDIR": f"{folder}/ipython", "MATPLOTLIBRC": folder}  # not a user's
        Path(folder, "matplotlibrc").touch()
        os.environ.pop("JPY_SESSION_NAME", None)
        for path in [FOLDER / name for name in sys.argv[1:]] or every:
            store(path)
            if path == FOLDER / f"{TRAINING}.ipynb":
                shutil.rmtree(runs.REFERENCE)
            if path.parent == FOLDER and path.stem in made:
                run = Path(folder, made[path.stem])
                shutil.copytree(run, runs.REFERENCE, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    make_exercises.main()


if __name__ == "__main__":
    main()
