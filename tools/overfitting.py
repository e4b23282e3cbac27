"""Run notebook 03 with each parameter file of lessons/overfitting/ and keep the history beside it, for 03 to draw.

About 4 minutes on 2 CPU cores.
"""

import shutil
import tempfile
from pathlib import Path

from fmnist_utils import pipeline, runs

FOLDER = runs.ROOT / "lessons" / "overfitting"


def main():
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(FOLDER.glob("*.yaml")):
            values = pipeline.read_parameters(path) | {"runs_dir": folder}
            pipeline.execute(pipeline.TRAINING, values, Path(folder) / "out.ipynb", path.stem)
            shutil.copy(Path(folder) / path.stem / runs.HISTORY, path.with_suffix(".csv"))


if __name__ == "__main__":
    main()
