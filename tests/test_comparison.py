"""Comparing runs: the frame, the averages and the tests are those that can be counted by hand."""

import json
import os
from statistics import mean, stdev

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.testing import assert_array_equal
from scipy import stats

from fmnist_utils import comparison, runs

LABEL = np.arange(100) % 10
DEFAULTS = {"seed": 0, "dropout": 0.1, "batch_norm": True, "filters": [4, 8], "learning_rate": 0.006}


def make_run(home, name, val_accuracy=0.9, index=range(100), wrong=(), test_wrong=None, seconds=10.0, **changes):
    folder = home / name
    folder.mkdir(parents=True)
    params = {"run_name": name, **DEFAULTS, **changes}
    (folder / runs.PARAMS).write_text(yaml.safe_dump(params))
    (folder / runs.ENVIRONMENT).write_text(json.dumps({"cpu": "A", "threads": 2}))
    metrics = {"val_accuracy": val_accuracy, "train_seconds": seconds, "seed": params["seed"]}
    (folder / runs.METRICS).write_text(json.dumps(metrics))
    for file, mistakes in ((runs.VALIDATION, wrong), (runs.TEST, test_wrong)):
        if mistakes is not None:
            guess = LABEL.copy()
            guess[list(mistakes)] = (guess[list(mistakes)] + 1) % 10
            arrays = {"label": LABEL, "probability": np.eye(10, dtype="float32")[guess]}
            _files.write_npz(folder / file, **arrays, **({} if file == runs.TEST else {"index": np.array(index)}))


@pytest.fixture
def ablation(tmp_path):
    """Two seeds each of the base, of no batch norm and of no dropout."""
    for seed, accuracies in enumerate([(0.93, 0.91, 0.935), (0.94, 0.93, 0.94)]):
        for what, changes in enumerate([{}, {"batch_norm": False}, {"dropout": 0.0}]):
            make_run(tmp_path, f"r{seed}{what}", accuracies[what], wrong=[seed, 50 + what], seed=seed, **changes)
    return tmp_path


# ---------------------------------------------------------------------------------------------- a folder as a frame


def test_every_complete_run_is_a_row_that_tells_what_sets_it_apart(ablation):
    (ablation / "unfinished").mkdir()
    (ablation / ".incoming-x").mkdir()
    (ablation / ".incoming-x" / runs.METRICS).write_text("{}")
    table = comparison.read_runs(ablation)
    assert table["setting"].to_dict() == {
        "r00": "base", "r01": "batch_norm = False", "r02": "dropout = 0",
        "r10": "base", "r11": "batch_norm = False", "r12": "dropout = 0",
    }  # fmt: skip
    assert sorted(comparison.varying_parameters(table)) == ["batch_norm", "dropout"]
    assert table.loc["r11", ["seed", "val_accuracy", "cpu", "threads", "filters"]].to_list() == [
        1,
        0.93,
        "A",
        2,
        "[4, 8]",
    ]


def test_without_a_most_frequent_value_each_setting_tells_its_own(tmp_path):
    for number, rate in enumerate([0.001, 0.003, 0.01]):
        make_run(tmp_path, f"r{number}", learning_rate=rate, filters=[4, 8] if number else [8, 8])
    assert comparison.read_runs(tmp_path)["setting"].to_list() == [
        "filters = [8, 8], learning_rate = 0.001", "learning_rate = 0.003", "learning_rate = 0.01",
    ]  # fmt: skip


def test_runs_of_an_older_version_that_lack_a_parameter_are_read_too(tmp_path):
    make_run(tmp_path, "old")
    make_run(tmp_path, "new", augment="flip")
    make_run(tmp_path, "newer", augment="flip", seed=1)
    assert comparison.read_runs(tmp_path)["setting"].to_dict()["new"] == "base"


@pytest.mark.parametrize("there", ["nothing", "an unfinished run"])
def test_a_folder_without_complete_runs_is_an_error_that_says_what_to_do(tmp_path, there):
    if there != "nothing":
        (tmp_path / "run").mkdir()
    with pytest.raises(runs.RunError, match=r"no complete run is in .*make sweep"):
        comparison.read_runs(tmp_path)


def test_a_parameters_effect_is_shown_with_the_others_at_their_usual_value(ablation):
    table = comparison.read_runs(ablation)
    assert comparison.one_factor_slice(table, "dropout").index.to_list() == ["r00", "r02", "r10", "r12"]


def test_in_a_grid_a_parameters_effect_is_shown_by_all_runs(tmp_path):
    for number, (dropout, rate) in enumerate([(0.0, 0.1), (0.0, 0.2), (0.3, 0.1), (0.3, 0.2)]):
        make_run(tmp_path, f"r{number}", dropout=dropout, learning_rate=rate)
    table = comparison.read_runs(tmp_path)
    assert len(comparison.one_factor_slice(table, "dropout")) == 4


# ---------------------------------------------------------------------------------------------- averages over seeds


def test_the_interval_of_a_mean_is_students():
    values = [0.93, 0.94, 0.92, 0.935, 0.91]
    m, s, low, high = comparison.t_confidence_interval(values)
    assert (m, s) == pytest.approx((mean(values), stdev(values)))
    assert high - m == pytest.approx(m - low) == pytest.approx(2.7764451 * s / 5**0.5)  # t of 4 degrees of freedom
    assert (low, high) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))


def test_one_seed_has_no_spread_and_no_interval():
    m, *others = comparison.t_confidence_interval([0.9])
    assert m == 0.9 and np.isnan(others).all()


def test_the_leaderboard_ranks_settings_by_their_mean_over_seeds(ablation):
    board = comparison.leaderboard(comparison.read_runs(ablation))
    assert board.index.to_list() == ["dropout = 0", "base", "batch_norm = False"]
    assert board["mean"].to_list() == pytest.approx([0.9375, 0.935, 0.92])
    assert board["runs"].to_list() == [2, 2, 2] and board["seconds"].to_list() == [10, 10, 10]


def test_differences_are_taken_seed_by_seed(ablation):
    make_run(ablation, "alone", 0.5, seed=7, batch_norm=False)  # the base has no such seed
    points = comparison.paired_differences(comparison.read_runs(ablation), "base")
    assert points.index.to_list() == ["batch_norm = False", "dropout = 0"]
    assert points["seeds"].to_list() == [2, 2]
    assert points["mean"].to_list() == pytest.approx([-0.015, 0.0025])
    assert points["std"].to_list() == pytest.approx([stdev([-0.02, -0.01]), stdev([0.005, 0])])


def test_an_unknown_baseline_is_refused_with_the_settings_that_there_are(ablation):
    with pytest.raises(ValueError, match=r"baseline = 'best': .*base; batch_norm = False; dropout = 0"):
        comparison.paired_differences(comparison.read_runs(ablation), "best")


def test_a_sweep_over_seeds_alone_has_one_setting_and_no_differences(tmp_path):
    for seed in range(3):
        make_run(tmp_path, f"r{seed}", seed=seed)
    table = comparison.read_runs(tmp_path)
    assert comparison.leaderboard(table).index.to_list() == ["base"]
    assert comparison.paired_differences(table, "base").empty and comparison.varying_parameters(table) == []


def test_the_front_holds_what_no_other_beats_in_time_and_accuracy():
    seconds = [10, 20, 30, 30, 40, 10]
    accuracy = [0.90, 0.92, 0.91, 0.93, 0.93, 0.89]
    assert_array_equal(comparison.pareto_mask(seconds, accuracy), [True, True, False, True, False, False])
    assert_array_equal(comparison.pareto_mask([5, 5], [0.9, 0.9]), [True, True])  # equal points both stay


def test_of_two_runs_of_one_setting_and_seed_the_newest_counts(ablation):
    make_run(ablation, "r00-again", 0.99, seed=0)
    os.utime(ablation / "r00-again" / runs.METRICS, (2e9, 2e9))
    table = comparison.read_runs(ablation)
    assert "r00" not in table.index and table.loc["r00-again", "val_accuracy"] == 0.99 and len(table) == 6
    os.utime(ablation / "r00-again" / runs.METRICS, (1, 1))
    assert "r00-again" not in comparison.read_runs(ablation).index


def test_values_that_are_close_are_different_settings(ablation):
    for i, rate in enumerate([0.0060001, 0.0060002, 0.0060003]):
        make_run(ablation, f"close{i}", learning_rate=rate)
    assert len({s for s in comparison.read_runs(ablation)["setting"] if "learning_rate" in s}) == 3


# ---------------------------------------------------------------------------------------------- image by image


def test_correct_answers_are_read_by_image(ablation):
    correct = comparison.load_correctness(ablation, ["r00", "r01"])
    assert correct.index.name == "image" and (~correct["r00"]).to_numpy().nonzero()[0].tolist() == [0, 50]
    assert (~correct["r01"]).to_numpy().nonzero()[0].tolist() == [0, 51]


def test_runs_judged_on_different_images_are_not_compared(tmp_path):
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", index=range(1, 101))
    with pytest.raises(runs.RunError, match=r"a, b were judged on different images.*split_seed"):
        comparison.load_correctness(tmp_path, ["a", "b"])


def test_test_images_need_a_run_that_04_has_judged(tmp_path):
    make_run(tmp_path, "judged", wrong=[1], test_wrong=[2, 3])
    make_run(tmp_path, "not-judged")
    assert comparison.load_correctness(tmp_path, ["judged"], "test")["judged"].sum() == 98
    with pytest.raises(
        runs.RunError, match=r"not-judged was not judged on the test images(?s:.)*-p run_name not-judged"
    ):
        comparison.load_correctness(tmp_path, ["not-judged"], "test")


@pytest.mark.parametrize("images", ["validation", "test"])
def test_an_unknown_run_is_named(ablation, images):
    with pytest.raises(runs.RunError, match="nobody"):
        comparison.load_correctness(ablation, ["nobody"], images)


def test_mcnemar_counts_only_images_that_fell_to_one():
    a = np.array([True] * 90 + [True] * 8 + [False] * 2)
    b = np.array([True] * 90 + [False] * 8 + [True] * 2)
    only_a, only_b, p = comparison.mcnemar(a, b)
    assert (only_a, only_b) == (8, 2)
    assert p == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # at most 2 of 10 by a fair coin, either way round


def test_equal_answers_are_no_evidence():
    same = np.array([True, False, True])
    assert comparison.mcnemar(same, same) == (0, 0, 1.0)
    assert comparison.paired_bootstrap(same, same) == (0.0, 0.0)


def test_the_paired_bootstrap_agrees_with_scipys():
    rng = np.random.default_rng(3)
    a, b = rng.random(2000) < 0.93, rng.random(2000) < 0.91
    ours = comparison.paired_bootstrap(a, b)
    theirs = stats.bootstrap(
        (a, b), lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True, vectorized=True, n_resamples=4000,
        method="percentile", rng=np.random.default_rng(0), batch=500,
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx(tuple(theirs), abs=0.0015)
    assert ours == comparison.paired_bootstrap(a, b)


def test_the_bootstrap_keeps_pairs_together():
    """Two networks that are wrong on the same images differ by nothing, however few images they have right."""
    a = np.arange(1000) < 500
    b = a.copy()
    b[:10] = False
    low, high = comparison.paired_bootstrap(a, b)
    assert 0 < low < 0.01 < high < 0.02


# ---------------------------------------------------------------------------------------------- two small files


def test_a_packed_folder_reads_like_the_folder(ablation, tmp_path):
    target = tmp_path / "packed"
    comparison.export_runs(ablation, target)
    assert sorted(path.name for path in target.iterdir()) == [comparison.PREDICTIONS, comparison.TABLE]
    pd.testing.assert_frame_equal(comparison.read_runs(target), comparison.read_runs(ablation), check_dtype=False)
    names = ["r00", "r12"]
    pd.testing.assert_frame_equal(
        comparison.load_correctness(target, names), comparison.load_correctness(ablation, names), check_index_type=False
    )
    with pytest.raises(runs.RunError, match="no test predictions of a run r00"):
        comparison.load_correctness(target, ["r00"], "test")
