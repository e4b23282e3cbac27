"""How much memory does each notebook's kernel take at most? Into results/peak_memory.json; about three minutes.

03 trains one epoch of all images; 04, 06 and 07 use the reference run. Binder, for one, gives a kernel 2 GB.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fmnist_utils import pipeline, runs
from fmnist_utils._environment import environment
from fmnist_utils._files import write_json

ONE = """
import resource, sys
from fmnist_utils import pipeline
notebook, folder = sys.argv[1:]
values = {"runs_dir": folder, "run_name": "memory", "epochs": 1} if notebook == pipeline.TRAINING else {}
pipeline.execute_notebook(pipeline.FOLDER / f"{notebook}.ipynb", f"{folder}/out.ipynb", values, cwd=pipeline.FOLDER,
                          progress_bar=False)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main():
    peaks = {}
    for path in sorted(pipeline.FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"FMNIST_RUNS_DIR": folder, "FMNIST_DEFAULT_RUN": runs.REFERENCE.name}
            command = [sys.executable, "-c", ONE, path.stem, folder]
            printed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
        peaks[path.stem] = round(1024 * int(printed.split()[-1]) / 1e9, 2)
        print(path.stem, peaks[path.stem], "GB", flush=True)
    where = {name: environment()[name] for name in ("cpu", "cores", "tensorflow", "commit")}
    write_json(Path(__file__).parent / "results" / "peak_memory.json", {"gigabytes": peaks, **where})


if __name__ == "__main__":
    main()
