"""Run notebook 03 with each parameter file in the folders of lessons/ and keep the history beside it, for 03 to draw.

python tools/lesson_histories.py [FILE …]: only some, such as lessons/overfitting/few_images.yaml. All of them take
about 5 minutes on 2 CPU cores.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from fmnist_utils import pipeline, runs


def main(files):
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path, files):
            values = pipeline.read_parameters(path) | {"runs_dir": folder}
            pipeline.execute(pipeline.TRAINING, values, Path(folder) / "out.ipynb", path.stem)
            shutil.copy(Path(folder) / path.stem / runs.HISTORY, path.with_suffix(".csv"))


if __name__ == "__main__":
    main(sys.argv[1:] or sorted((runs.ROOT / "lessons").glob("*/*.yaml")))
