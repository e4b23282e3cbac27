"""Killed at any moment, a run goes on when it is started again and ends with the weights of an undisturbed one."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fmnist_utils import evaluation, runs

pytestmark = pytest.mark.slow
# Runs notebook 03's cells in one process, which kills itself at the n-th call of a function: no timing decides.
CHILD = """
import itertools, os, signal, sys
import nbformat
from fmnist_utils import runs, training

calls = itertools.count(1)

def killing(called):
    def wrapper(*args, **kwargs):
        if next(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return called(*args, **kwargs)
    return wrapper

if sys.argv[1] == "rename":
    os.replace = killing(os.replace)
if sys.argv[1] == "execution":
    training.Checkpoint.on_train_batch_end = killing(training.Checkpoint.on_train_batch_end)
names = {"__name__": "__main__"}
for cell in nbformat.read(runs.ROOT / "notebooks" / "03_training.ipynb", as_version=4).cells:
    if cell.cell_type == "code":
        exec(compile(cell.source, cell.id, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"run_name": "killed", "train_size": 600, "batch_size": 8, "epochs": 3}
            names |= {"filters": [4, 8], "convs_per_block": [1, 1]}
"""
# An epoch's 75 steps are three executions. Renames: the parameters, three checkpoints, six files twice.
MOMENTS = [("execution", 2), ("execution", 5), *(("rename", n) for n in (1, 3, 4, 10, 11, 13, 16))]


def train(home, function="none", moment=0):
    environment = {**os.environ, "FMNIST_RUNS_DIR": str(home), "MPLBACKEND": "Agg"}
    words = [sys.executable, "-c", CHILD, function, str(moment)]
    done = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == (-signal.SIGKILL if moment else 0), done.stderr


def results(home):
    """Return what a finished run holds but for its times: weights and predictions, metrics."""
    run = runs.find("killed", home)
    assert not run.work_dir.exists()
    metrics = {name: value for name, value in runs.read_metrics(run).items() if "second" not in name}
    return [*evaluation.load_model(run.folder / runs.MODEL).get_weights(), *runs.read_predictions(run)], metrics


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    train(home := tmp_path_factory.mktemp("undisturbed"))
    return results(home)


@pytest.mark.parametrize(("function", "moment"), MOMENTS)
def test_killed_run(function, moment, tmp_path, undisturbed):
    train(tmp_path, function, moment)
    train(tmp_path)
    np.testing.assert_equal(results(tmp_path), undisturbed)
