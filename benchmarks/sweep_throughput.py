"""Throughput of a sweep: two runs side by side with one thread each, against one after another with all cores.

python benchmarks/sweep_throughput.py [SWEEP.yaml]     from the project's folder; results/sweep_throughput.json

Overhead is a run's wall time beyond its training cell, one run at a time, with its share of the cluster's start.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np

from fmnist_utils import runs, sweep


def timed(notebook, base, named, workers):
    """Run a sweep into a folder of its own; return its seconds, each run's seconds of steps and of fit, and where."""
    with tempfile.TemporaryDirectory() as output:
        began = time.perf_counter()
        sweep.run_sweep(notebook, base, named, output, workers)
        seconds, found = time.perf_counter() - began, [runs.Run(Path(output, name), {}) for name in named]
        steps = [runs.read_metrics(run)["train_seconds"] for run in found]
        done = [nbformat.read(run.folder / "notebooks" / notebook.name, as_version=4) for run in found]
        fits = [cell.metadata.papermill.duration for one in done for cell in one.cells if cell.id == "train-fit"]
        return seconds, steps, fits, runs.read_metrics(found[0], runs.ENVIRONMENT)


if __name__ == "__main__":
    file, rounds = (sys.argv[1:] or ["benchmarks/sweep_throughput.yaml"])[0], []
    described = sweep.read_sweep(file)
    for _ in range(3):
        alone, steps, fits, environment = timed(*described, workers=1)
        beside, *_ = timed(*described, workers=2)
        rounds.append((alone / beside, (alone - sum(fits)) / len(fits), np.mean(steps), np.mean(fits)))
    names = ("gain_median", "overhead_seconds_median", "train_seconds_median", "training_cell_seconds_median")
    result = {"sweep": file, "runs": len(fits), "rounds": len(rounds), "environment": environment}
    result |= dict(zip(names, np.median(rounds, axis=0).round(2).tolist(), strict=True))
    path = runs.ROOT / "benchmarks" / "results" / "sweep_throughput.json"
    runs.write_json(path, [*json.loads(path.read_text(encoding="utf-8")), result])
    print(result)
