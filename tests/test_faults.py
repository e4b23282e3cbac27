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
import os, signal, sys
import nbformat
from fmnist_utils import runs, training

function, moment = sys.argv[1], int(sys.argv[2])
calls = 0

def killing(called):
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return called(*args, **kwargs)
    return wrapper

if function == "rename":
    os.replace = killing(os.replace)
if function == "execution":
    training.Checkpoint.on_train_batch_end = killing(training.Checkpoint.on_train_batch_end)
names = {"__name__": "__main__"}
for cell in nbformat.read(runs.ROOT / "notebooks" / "03_training.ipynb", as_version=4).cells:
    if cell.cell_type == "code":
        exec(compile(cell.source, cell.id, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"run_name": "killed", "train_size": 600, "batch_size": 8, "epochs": 3}
            names |= {"filters": [4, 8], "convs_per_block": [1, 1]}
"""
# An epoch's 75 steps are three executions.
MOMENTS = [("execution", n) for n in (2, 5, 9)] + [("rename", n) for n in (1, 2, 3, 4, 6, 9, 11, 15)]


def train(home, function="none", moment=0):
    environment = {**os.environ, "FMNIST_RUNS_DIR": str(home), "MPLBACKEND": "Agg"}
    command = [sys.executable, "-c", CHILD, function, str(moment)]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")


def results(home):
    folder = home / "killed"
    assert not (folder / ".work").exists() and runs.is_complete(folder)
    weights = evaluation.load_model(folder / runs.MODEL).get_weights()
    with np.load(folder / runs.VALIDATION) as file:
        arrays = {name: file[name] for name in file}
    metrics = runs.read_metrics(runs.Run(folder, {}))
    return weights, arrays, {name: metrics[name] for name in ("val_accuracy", "val_loss", "best_epoch", "epochs_run")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    done = train(home)
    assert done.returncode == 0, done.stderr
    return results(home)


@pytest.mark.parametrize(("function", "moment"), MOMENTS)
def test_killed_run(function, moment, tmp_path, undisturbed):
    """Started again, it ends with the weights of an undisturbed one."""
    killed = train(tmp_path, function, moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = train(tmp_path)
    assert again.returncode == 0, again.stderr
    weights, arrays, metrics = results(tmp_path)
    for mine, theirs in zip(weights, undisturbed[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name, array in undisturbed[1].items():
        np.testing.assert_array_equal(arrays[name], array)
    assert metrics == undisturbed[2]
