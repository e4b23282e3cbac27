"""Comparing runs: the frame, the averages and the tests are those that can be counted by hand."""

import os
from statistics import mean, stdev

import export_runs  # tools/, see conftest.py
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from fmnist_utils import comparison, runs

LABEL = np.arange(100) % 10
DEFAULTS = {"seed": 0, "dropout": 0.1, "batch_norm": True, "filters": [4, 8], "learning_rate": 0.006}


def make_run(home, name, val_accuracy=0.9, index=range(100), wrong=(), test_wrong=None, seconds=10.0, **changes):
    folder = home / name
    folder.mkdir(parents=True)
    params = {"run_name": name, **DEFAULTS, **changes}
    (folder / runs.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    runs.write_json(folder / runs.ENVIRONMENT, {"cpu": "A", "threads": 2})
    metrics = {"val_accuracy": val_accuracy, "train_seconds": seconds, "seed": params["seed"]}
    runs.write_json(folder / runs.METRICS, metrics)
    for file, mistakes in ((runs.VALIDATION, wrong), (runs.TEST, test_wrong)):
        if mistakes is not None:
            guess = LABEL.copy()
            guess[list(mistakes)] = (guess[list(mistakes)] + 1) % 10
            arrays = {"label": LABEL, "probability": np.eye(10, dtype="float32")[guess]}
            runs.write_npz(folder / file, **arrays, **({} if file == runs.TEST else {"index": np.array(index)}))


@pytest.fixture
def ablation(tmp_path):
    for seed, accuracies in enumerate([(0.93, 0.91, 0.935), (0.94, 0.93, 0.94)]):
        for what, changes in enumerate([{}, {"batch_norm": False}, {"dropout": 0.0}]):
            make_run(tmp_path, f"r{seed}{what}", accuracies[what], wrong=[seed, 50 + what], seed=seed, **changes)
    return tmp_path


def test_configuration(ablation):
    """Every complete run is a row that tells what sets it apart."""
    (ablation / "unfinished").mkdir()
    (ablation / ".incoming-x").mkdir()
    (ablation / ".incoming-x" / runs.METRICS).write_text("{}", encoding="utf-8")
    table = comparison.read_runs(ablation)
    assert table["configuration"].to_dict() == {
        "r00": "base", "r01": "batch_norm = False", "r02": "dropout = 0",
        "r10": "base", "r11": "batch_norm = False", "r12": "dropout = 0",
    }  # fmt: skip
    assert sorted(comparison.varying_parameters(table)) == ["batch_norm", "dropout"]
    columns = ["seed", "val_accuracy", "cpu", "threads", "filters"]
    assert table.loc["r11", columns].to_list() == [1, 0.93, "A", 2, "4-8"]


def test_configuration_without_most_frequent_value(tmp_path):
    """Each run tells its own value; a list is written with dashes, an empty one as none."""
    for number, rate in enumerate([0.001, 0.003, 0.01]):
        augment = ["flip", "shift"] if number else []
        make_run(tmp_path, f"r{number}", learning_rate=rate, filters=[4, 8] if number else [8, 8], augment=augment)
    assert comparison.read_runs(tmp_path)["configuration"].to_list() == [
        "filters = 8-8, learning_rate = 0.001, augment = none", "learning_rate = 0.003", "learning_rate = 0.01",
    ]  # fmt: skip


def test_configuration_parameter_of_a_later_version(tmp_path):
    make_run(tmp_path, "old")
    make_run(tmp_path, "new", augment=["flip"])
    make_run(tmp_path, "newer", augment=["flip"], seed=1)
    assert comparison.read_runs(tmp_path)["configuration"].to_dict()["new"] == "base"


def test_runs_of_one_configuration_and_seed(ablation):
    make_run(ablation, "r00-again", 0.99, seed=0)
    os.utime(ablation / "r00-again" / runs.METRICS, (2e9, 2e9))
    table = comparison.read_runs(ablation)
    assert "r00" not in table.index and table.loc["r00-again", "val_accuracy"] == 0.99 and len(table) == 6
    os.utime(ablation / "r00-again" / runs.METRICS, (1, 1))
    assert "r00-again" not in comparison.read_runs(ablation).index


def test_runs_none_complete(tmp_path):
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(runs.RunError, match=r"no complete run is in .*make sweep"):
        comparison.read_runs(tmp_path)


def test_t_confidence_interval():
    values = [0.93, 0.94, 0.92, 0.935, 0.91]
    m, s, low, high = comparison.t_confidence_interval(values).values()
    assert (m, s) == pytest.approx((mean(values), stdev(values)))
    assert high - m == pytest.approx(m - low) == pytest.approx(2.7764451 * s / 5**0.5)  # t of 4 degrees of freedom
    assert (low, high) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    m, *others = comparison.t_confidence_interval([0.9]).values()
    assert m == 0.9 and np.isnan(others).all()


def test_leaderboard(ablation):
    """The best mean comes first, by the accuracy or by another column."""
    board = comparison.leaderboard(comparison.read_runs(ablation))
    assert board.index.to_list() == ["dropout = 0", "base", "batch_norm = False"]
    assert board["mean"].to_list() == pytest.approx([0.9375, 0.935, 0.92])
    assert board["runs"].to_list() == [2, 2, 2] and board["seconds"].to_list() == [10, 10, 10]
    table = comparison.read_runs(ablation).assign(other=[1, 2, 3] * 2)
    assert comparison.leaderboard(table, "other").index.to_list() == ["dropout = 0", "batch_norm = False", "base"]
    assert comparison.paired_differences(table, "base", "other")["mean"].to_list() == [1, 2]


def test_paired_differences(ablation):
    make_run(ablation, "alone", 0.5, seed=7, batch_norm=False)  # the base has no such seed
    differences = comparison.paired_differences(comparison.read_runs(ablation), "base")
    assert differences.index.to_list() == ["batch_norm = False", "dropout = 0"]
    assert differences["seeds"].to_list() == [2, 2]
    assert differences["mean"].to_list() == pytest.approx([-0.015, 0.0025])
    assert differences["std"].to_list() == pytest.approx([stdev([-0.02, -0.01]), stdev([0.005, 0])])


def test_paired_differences_unknown_baseline(ablation):
    with pytest.raises(ValueError, match=r"baseline = 'best': .*base; batch_norm = False; dropout = 0"):
        comparison.paired_differences(comparison.read_runs(ablation), "best")


def test_correctness(ablation):
    correct = comparison.load_correctness(ablation, ["r00", "r01"])
    assert correct.index.name == "image" and (~correct["r00"]).to_numpy().nonzero()[0].tolist() == [0, 50]
    assert (~correct["r01"]).to_numpy().nonzero()[0].tolist() == [0, 51]


def test_correctness_different_images(tmp_path):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", index=range(1, 101))
    with pytest.raises(runs.RunError, match=r"a, b were evaluated on different images.*split_seed"):
        comparison.load_correctness(tmp_path, ["a", "b"])


def test_correctness_test_images(tmp_path):
    make_run(tmp_path, "evaluated", wrong=[1], test_wrong=[2, 3])
    make_run(tmp_path, "new")
    assert comparison.load_correctness(tmp_path, ["evaluated"], "test")["evaluated"].sum() == 98
    with pytest.raises(runs.RunError, match=r"new.* has not been evaluated yet"):
        comparison.load_correctness(tmp_path, ["new"], "test")


def test_export(ablation, tmp_path):
    """The two files read like the folder."""
    target = tmp_path / "exported"
    export_runs.export_runs(ablation, target)
    assert sorted(path.name for path in target.iterdir()) == [comparison.PREDICTIONS, comparison.TABLE]
    pd.testing.assert_frame_equal(comparison.read_runs(target), comparison.read_runs(ablation), check_dtype=False)
    both = [comparison.load_correctness(folder, ["r00", "r12"]) for folder in (target, ablation)]
    pd.testing.assert_frame_equal(*both, check_index_type=False)
    with pytest.raises(runs.RunError, match="no test predictions of a run r00"):
        comparison.load_correctness(target, ["r00"], "test")
