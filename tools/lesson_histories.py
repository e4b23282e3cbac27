"""Run notebook 03 with each parameter file in lessons/, keep its history.csv beside it: 5 minutes on 2 CPU cores."""

import shutil
import tempfile
from pathlib import Path

from fmnist_utils import pipeline, runs

for path in sorted((runs.ROOT / "lessons").glob("*/*.yaml")):
    with tempfile.TemporaryDirectory() as folder:
        values = pipeline.read_parameters(path) | {"runs_dir": folder}
        pipeline.execute_notebook(pipeline.FOLDER / f"{pipeline.TRAINING}.ipynb", None, values, cwd=pipeline.FOLDER)
        shutil.copy(Path(folder) / values["run_name"] / runs.HISTORY, path.with_suffix(".csv"))
