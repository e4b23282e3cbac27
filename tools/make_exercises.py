"""Make notebooks/exercises from notebooks/solutions: without the cells tagged `solution`, and without outputs."""

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

from fmnist_utils import runs

SOLUTIONS, EXERCISES = (runs.ROOT / "notebooks" / name for name in ("solutions", "exercises"))


def exercise(path):
    """Return the text of the exercises of one notebook with solutions."""
    notebook = nbformat.read(path, as_version=4)
    for preprocessor in (TagRemovePreprocessor(remove_cell_tags={"solution"}), ClearOutputPreprocessor()):
        notebook, _ = preprocessor.preprocess(notebook, {})
    return nbformat.writes(notebook) + "\n"


def main():
    for path in SOLUTIONS.glob("*[a-z].ipynb"):
        (EXERCISES / path.name).write_text(exercise(path), encoding="utf-8")


if __name__ == "__main__":
    main()
