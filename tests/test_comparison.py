"""Comparing runs: the frame, the averages and the tests are those that can be counted by hand."""

import re
from statistics import mean, stdev

import numpy as np
import pytest
import yaml

from fmnist_utils import comparison, runs

LABEL = np.arange(100) % 10
DEFAULTS = {"seed": 0, "dropout": 0.1, "batch_norm": True, "filters": [4, 8], "learning_rate": 0.006}


def make_run(home, name, val_accuracy=0.9, index=range(100), wrong=(), test_wrong=None, **changes):
    usual = {"finished": "2025", "code_hash": "new", "data": 1}
    facts = {"cpu": "A", "threads": 2} | {fact: changes.pop(fact, value) for fact, value in usual.items()}
    (folder := home / name).mkdir(parents=True, exist_ok=True)
    params = {"run_name": name, **DEFAULTS, **changes}
    (folder / runs.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    runs.write_json(folder / runs.ENVIRONMENT, facts)
    runs.write_json(folder / runs.METRICS, {"val_accuracy": val_accuracy, "train_seconds": 10.0})
    for file, mistakes in ((runs.VALIDATION, wrong), (runs.TEST, test_wrong)):
        if mistakes is not None:
            y_prob = np.eye(10, dtype="float32")[(LABEL + np.isin(np.arange(100), mistakes)) % 10]
            images = {} if file == runs.TEST else {"index": np.array(index)}
            runs.write_npz(folder / file, label=LABEL, probability=y_prob, **images)


@pytest.fixture
def ablation(tmp_path):
    for seed, accuracies in enumerate([(0.93, 0.91, 0.935), (0.94, 0.93, 0.94)]):
        for what, changes in enumerate([{}, {"batch_norm": False}, {"dropout": 0.0}]):
            make_run(tmp_path, f"r{seed}{what}", accuracies[what], wrong=[seed, 50 + what], seed=seed, **changes)
    return tmp_path


def test_configuration(ablation):
    (ablation / "unfinished").mkdir()
    (ablation / ".incoming-x").mkdir()
    (ablation / ".incoming-x" / runs.METRICS).write_text("{}", encoding="utf-8")
    table = comparison.read_runs(ablation)
    assert table.index.to_list() == ["r00", "r01", "r02", "r10", "r11", "r12"]
    assert table["configuration"].to_list() == ["base", "batch_norm = False", "dropout = 0"] * 2
    assert sorted(comparison.varying_parameters(table)) == ["batch_norm", "dropout"]
    assert table.loc["r11", ["seed", "val_accuracy", "cpu", "threads", "filters"]].to_list() == [1, 0.93, "A", 2, "4-8"]
    with pytest.raises(runs.RunError, match=r"no complete run is in .*make sweep"):
        comparison.read_runs(ablation / "unfinished")


def test_configuration_without_most_frequent_value(tmp_path):
    """Each run tells its own value; a list is written with dashes, an empty one as none; an older run lacks one."""
    for number, rate in enumerate([0.001, 0.003, 0.01]):
        new = {"augment": ["flip", "shift"] if number else []}
        make_run(tmp_path / "a", f"r{number}", learning_rate=rate, filters=[4, 8] if number else [8, 8], **new)
        make_run(tmp_path / "b", f"r{number}", seed=number, **(new if number else {}))
    first, *others = comparison.read_runs(tmp_path / "a")["configuration"]
    assert first == "filters = 8-8, learning_rate = 0.001, augment = none"
    assert others == ["learning_rate = 0.003", "learning_rate = 0.01"]
    assert comparison.read_runs(tmp_path / "b")["configuration"].to_list()[1:] == ["base", "base"]


def test_newest_run_of_one_configuration_and_seed(ablation):
    """By its own word, whatever the times of its files are."""
    for time, counts in (("2026", "r00-again"), ("2024", "r00")):
        make_run(ablation, "r00-again", 0.99, seed=0, finished=time)
        assert [name for name in comparison.read_runs(ablation).index if name.startswith("r00")] == [counts]


def test_runs_that_differ_in_code_or_in_a_notebooks_own_parameter(ablation):
    for seed in range(2):
        make_run(ablation, f"own{seed}", 0.99, seed=seed, shape="round", clip=None)
    make_run(ablation, "old", 0.9, seed=0, code_hash="0123456789")
    make_run(ablation, "changed", 0.9, seed=0, data=7)
    make_run(ablation, "drawn by seed", 0.9, seed=2, data=8)
    table = comparison.read_runs(ablation)
    assert table.loc[["own0", "own1"], "configuration"].to_list() == ["shape = round, clip = None"] * 2
    assert table.loc["old", "configuration"] == "code = 01234567" and table.loc["r00", "configuration"] == "base"
    assert table.loc["changed", "configuration"] == "data = 7"
    varying = comparison.varying_parameters(table)
    assert {"shape", "code", "data"} < set(varying) and "cpu" not in varying


@pytest.mark.parametrize("name", [runs.PARAMS, runs.METRICS, runs.ENVIRONMENT, runs.VALIDATION])
def test_damaged_run_is_named_and_left_out(name, ablation, capsys):
    (ablation / "r01" / name).write_text("{")
    make_run(ablation, "own", best_epoch=3, code=1)
    assert comparison.read_runs(ablation).index.to_list() == ["r00", "r02", "r10", "r11", "r12"]
    assert re.search(f"left out: the run 'r01' has a damaged or foreign {name}", told := capsys.readouterr().out)
    assert "left out: the run 'own' has a parameter named like a result: code\n" in told


def test_t_confidence_interval():
    values = [0.93, 0.94, 0.92, 0.935, 0.91]
    m, s, low, high = comparison.t_confidence_interval(values).values()
    assert (m, s) == pytest.approx((mean(values), stdev(values)))
    assert high - m == pytest.approx(m - low) == pytest.approx(2.7764451 * s / 5**0.5)  # t of 4 degrees of freedom
    m, *others = comparison.t_confidence_interval([0.9]).values()
    assert m == 0.9 and np.isnan(others).all()


def test_leaderboard(ablation):
    board = comparison.leaderboard(comparison.read_runs(ablation))
    assert board["mean"].to_dict() == pytest.approx({"dropout = 0": 0.9375, "base": 0.935, "batch_norm = False": 0.92})
    assert board.index[0] == "dropout = 0" and set(board["runs"]) == {2} and set(board["seconds"]) == {10}


def test_paired_differences(ablation):
    make_run(ablation, "alone", 0.5, seed=7, batch_norm=False)  # the base has no such seed
    table = comparison.read_runs(ablation)
    differences = comparison.paired_differences(table, "base")
    assert differences.index.to_list() == ["batch_norm = False", "dropout = 0"] and set(differences["seeds"]) == {2}
    assert differences["mean"].to_list() == pytest.approx([-0.015, 0.0025])
    assert differences["std"].to_list() == pytest.approx([stdev([-0.02, -0.01]), stdev([0.005, 0])])
    with pytest.raises(ValueError, match=r"baseline = 'best': .*base; batch_norm = False; dropout = 0"):
        comparison.paired_differences(table, "best")


def test_correctness(tmp_path):
    """Image by image; runs of different images are refused, and test images need an evaluated run."""
    for name, options in {"a": {"wrong": [0, 50]}, "b": {"test_wrong": [2, 3]}, "c": {"index": range(1, 101)}}.items():
        make_run(tmp_path, name, **options)
    correct = comparison.load_correctness(tmp_path, ["a", "b"])
    assert correct.index.name == "image" and correct.index[~correct["a"]].to_list() == [0, 50] and correct["b"].all()
    assert comparison.load_correctness(tmp_path, ["b"], "test")["b"].sum() == 98
    with pytest.raises(runs.RunError, match=r"a, c were evaluated on different images.*split_seed"):
        comparison.load_correctness(tmp_path, ["a", "c"])
    with pytest.raises(runs.RunError, match=r"a.* has not been evaluated yet"):
        comparison.load_correctness(tmp_path, ["a"], "test")
