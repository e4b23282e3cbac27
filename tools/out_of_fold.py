"""Predict each training image by a network that never saw it: five trainings, each on four fifths, into lessons/.

Writes lessons/out_of_fold.npz for notebook 07, (60000, 10) in 1/255. Notebook 03 trains, without early stopping.
"""

import tempfile

import nbformat
import numpy as np

from fmnist_utils import pipeline, runs

SPLIT = """
from sklearn.model_selection import StratifiedKFold

data.stratified_split = lambda y, *_: list(StratifiedKFold(5, shuffle=True, random_state=0).split(y, y))[{fold}]
"""

if __name__ == "__main__":
    probability = np.full((60_000, 10), np.nan, "float32")
    for fold in range(5):
        notebook = nbformat.read(pipeline.FOLDER / f"{pipeline.TRAINING}.ipynb", as_version=4)
        place = [cell.id for cell in notebook.cells].index("prepare")
        notebook.cells.insert(place, nbformat.v4.new_code_cell(SPLIT.format(fold=fold)))
        with tempfile.TemporaryDirectory() as folder:
            values = {"run_name": "fold", "runs_dir": folder, "early_stopping": False}
            pipeline.execute_notebook(notebook, None, values, cwd=pipeline.FOLDER)
            index, _, probability[index] = runs.read_predictions(runs.find("fold", folder))
    assert not np.isnan(probability).any(), "a fold was not held out"
    runs.write_npz(runs.ROOT / "lessons" / "out_of_fold.npz", probability=np.round(255 * probability).astype("uint8"))
