"""Throughput of a sweep: two workers with one thread each, against one run after another with all cores.

python benchmarks/sweep_throughput.py [--runs 4] [--rounds 3] [--set train_size=8000 …]

Both sides execute the same runs of notebook 03 (params/quick.yaml with the changes of --set), in turn, several rounds;
the median of the rounds' ratios counts. Beside it stands how much more two busy cores of this machine do than one.
Overhead is a run's wall time beyond its training cell, one run at a time, TensorFlow's import included and the
cluster's start shared out; the training cell's own seconds beyond its steps, which are the validation after each epoch
and the building of the network, are given beside it. Writes benchmarks/results/sweep_throughput.json.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import yaml

from fmnist_utils import _environment, _files, _sweep_file, runs, sweep

FIT = "train-fit"  # the cell of notebook 03 that trains


def count(_=None):
    """Keep one core busy for a second or two; return the seconds."""
    began, number = time.perf_counter(), 0
    while number < 20_000_000:
        number += 1
    return time.perf_counter() - began


def capacity():
    """Return how many times as much this machine does with two busy cores as with one: 2 where none disturbs."""
    with multiprocessing.Pool(2) as pool:
        pool.map(count, range(2))
        return 2 * count() / max(pool.map(count, range(2)))


def timed(notebook, base, named, workers):
    """Run a sweep into a folder of its own; return its wall seconds, and each run's seconds of steps and of fit."""
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8")):
        began = time.perf_counter()
        result = sweep.run_sweep(notebook, base, named, output, workers=workers)
        seconds = time.perf_counter() - began
        if any(result.values()):
            raise SystemExit(f"a run failed: {result}")
        folders = [Path(output) / name for name in named]
        steps = [json.loads((folder / runs.METRICS).read_text(encoding="utf-8"))["train_seconds"] for folder in folders]
        executed = [nbformat.read(folder / "notebooks" / notebook.name, as_version=4) for folder in folders]
        return (
            seconds,
            steps,
            [cell.metadata.papermill.duration for nb in executed for cell in nb.cells if cell.id == FIT],
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="changes to params/quick.yaml")
    arguments = parser.parse_args()
    changes = {name: yaml.safe_load(value) for name, value in (word.split("=") for word in arguments.set)}
    content = {"notebook": str(runs.ROOT / "notebooks/03_training.ipynb"), "variants": [changes]}
    content |= {"base": str(runs.ROOT / "params/quick.yaml"), "seeds": list(range(arguments.runs))}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sweep.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        described = _sweep_file.read_sweep(Path(folder) / "sweep.yaml")
    capacities, gains, overheads, trainings, validations = [], [], [], [], []
    for number in range(arguments.rounds):
        capacities.append(capacity())
        alone, steps, fits = timed(*described, workers=1)
        beside, *_ = timed(*described, workers=2)
        gains.append(alone / beside)
        overheads.append((alone - sum(fits)) / arguments.runs)
        trainings += steps
        validations += list(np.subtract(fits, steps))
        print(f"round {number + 1}: {alone:.0f} s one after another, {beside:.0f} s side by side", flush=True)
    result = {
        "changes": arguments.set,
        "runs": arguments.runs,
        "gain_median": round(float(np.median(gains)), 2),
        "two_cores_do_median": round(float(np.median(capacities)), 2),
        "gains": [round(gain, 2) for gain in gains],
        "overhead_seconds_median": round(float(np.median(overheads)), 1),
        "train_seconds_median": round(float(np.median(trainings)), 1),
        "fit_beyond_steps_seconds_median": round(float(np.median(validations)), 1),
        "environment": _environment.environment(),
    }
    path = runs.ROOT / "benchmarks/results/sweep_throughput.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    _files.write_json(path, [entry for entry in kept if entry["changes"] != arguments.set] + [result])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
