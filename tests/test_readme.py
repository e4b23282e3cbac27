"""The README's commands work, or say that they need something a test does not have."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fmnist_utils import comparison, runs, sweep

README = (runs.ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
MARKED = [
    line for line in COMMANDS if re.search(r"# \((?:opens a browser|needs conda|needs npm|many machines)\)", line)
]
MAKE = [line for line in COMMANDS if line.startswith("make ")]
PAPERMILL = [line for line in COMMANDS if line.startswith("papermill notebooks/")]
# set-up and tests: this very test run has gone through them
RUN_ELSEWHERE = ("python3 -m venv", "source ", "pip install -r", "python -m pytest", "python -m fmnist_utils.pipeline")
SHORT = ["-p", "train_size", "500", "-p", "epochs", "1", "-y", "{filters: [4, 8], convs_per_block: [1, 1]}"]


def words(line):
    return shlex.split(line, comments=True)


def tool(name):
    return str(Path(sys.executable).parent / name)


def test_every_command_is_tested_or_marked():
    rest = [line for line in COMMANDS if line not in MAKE + MARKED + PAPERMILL]
    rest = [line for line in rest if not line.startswith(RUN_ELSEWHERE)]
    dry_run = [line for line in rest if "--dry-run" in line]
    assert [line for line in rest if line not in dry_run] == [
        "papermill --help-notebook notebooks/03_training.ipynb",
        "python -m fmnist_utils.data",
    ]
    assert len(MARKED) == 7 and len(PAPERMILL) == 5 and len(dry_run) == 1


@pytest.mark.parametrize("line", MAKE)
def test_make_knows_the_target(line):
    result = subprocess.run([*words(line), "-n"], cwd=runs.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_python_m_data_says_which_source_served():
    command = [sys.executable, *words("-m fmnist_utils.data")]
    result = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "SHA-256 checked. Source: " in result.stdout and not result.stderr


def test_papermill_shows_every_parameter_with_its_type_and_help():
    command = [tool("papermill"), "--help-notebook", "notebooks/03_training.ipynb"]
    shown = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=True).stdout
    assert "filters: list (default [32, 64, 128])" in " ".join(shown.split())
    assert "label_smoothing: float" in shown and "Unknown" not in shown


def test_the_dry_run_of_a_sweep_lists_its_runs():
    (line,) = [line for line in COMMANDS if "--dry-run" in line]
    command = [sys.executable, *words(line)[1:]]
    shown = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=True).stdout
    assert "52 runs of notebooks/03_training.ipynb" in shown and "batch_norm = False, seed = 3" in shown


def test_the_sweep_file_that_is_shown_is_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shown.yaml").write_text(shown)
    assert len(_sweep_file.read_sweep(tmp_path / "shown.yaml")[2]) == 2 * 2 * 4 * 3


@pytest.mark.slow
def test_the_papermill_commands_run_one_after_the_other(tmp_path):
    """As they stand, but for a few options that shorten the training."""
    for line in PAPERMILL:
        command = words(line)
        command[2] = str(tmp_path / "out.ipynb")
        if "03_training" in line:
            command += SHORT if "-y" not in command else [*SHORT[:6], "-y", "{convs_per_block: [1, 1, 1]}"]
        result = subprocess.run([tool("papermill"), *command[1:]], cwd=runs.ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:txt|yml|toml|md|yaml))`", README)))
)
def test_a_file_that_is_named_exists(name):
    assert (runs.ROOT / name).exists() or name.startswith(("runs/", "environment.json"))


@pytest.mark.parametrize(("name", "folder"), [("quick", "reference")])
def test_the_measured_numbers_stand_in_the_files_of_a_run(name, folder):
    metrics, test = (json.loads((runs.ROOT / folder / f).read_text()) for f in (runs.METRICS, runs.TEST_METRICS))
    low, high = test["test_accuracy_low"], test["test_accuracy_high"]
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `params/{name}.yaml` |")]
    assert row.split(" | ")[1:] == [
        f"{metrics['train_seconds']:.0f} s, {metrics['epochs_run']} epochs",
        f"{metrics['val_accuracy']:.2%}".replace("%", " %"),
        f"{test['test_accuracy']:.2%} ({low:.2%} to {high:.2%})".replace("%", " %").replace(" % to", " to"),
        f"{metrics['model_parameters']:,} |",
    ]


def test_the_spread_over_seeds_stands_in_the_benchmark():
    quick = json.loads((runs.ROOT / "benchmarks/results/time_to_accuracy.json").read_text())["quick"]
    assert quick["seeds"] == [0, 1, 2, 3, 4]
    text = " ".join(README.split())
    assert f"reaches {100 * quick['test_accuracy_mean']:.2f} % on the test set on average" in text
    spread = f"deviation of {100 * quick['test_accuracy_std']:.2f} points, in {quick['train_seconds_median']:.0f} s"
    assert spread in text


def test_what_each_component_is_worth_stands_in_the_ablation():
    table = comparison.read_runs(runs.ROOT / "sweeps" / "results" / "ablation")
    lost = comparison.paired_differences(table, comparison.BASE)
    points = {name: f"{-100 * lost.loc[name, 'mean']:.2f}" for name in lost.index}
    text = " ".join(README.split())
    assert f"schedule is worth {points['schedule = constant']} points of validation accuracy, " in text
    assert f"batch normalisation {points['batch_norm = False']}, mirroring {points['augment = none']}." in text
    unsure = {
        "early_stopping = False",
        "dropout = 0",
        "dense_units = 0",
        "pooling_head = flatten",
        "label_smoothing = 0",
    }
    assert unsure <= set(lost.index[(lost["low"] <= 0) & (lost["high"] >= 0)])


def test_the_gain_of_a_sweep_stands_in_the_benchmark():
    short, quick = json.loads((runs.ROOT / "benchmarks/results/sweep_throughput.json").read_text())
    text = " ".join(README.split())
    assert (
        f"{short['gain_median']} times the throughput where a run's steps take {short['train_seconds_median']:.0f} s"
        in text
    )
    assert f"{quick['gain_median']} times for `quick`" in text
    assert f"takes {short['overhead_seconds_median']} s beyond its training cell" in text
    beyond_steps = short["overhead_seconds_median"] + short["fit_beyond_steps_seconds_median"]
    assert f"about {beyond_steps:.0f} s beyond its steps" in text


def test_what_the_tests_caught_stands_in_the_log_of_that_run():
    log = (runs.ROOT / "benchmarks/results/mutants.txt").read_text().splitlines()
    gates = [line.split()[0] for line in log[2:-1]]
    told = f"caught {len(gates)} of {len(gates)}"
    counts = {gate: gates.count(gate) for gate in ("unit", "contract", "nbval")}
    assert log[-1] == told and told in " ".join(README.split()) and sum(counts.values()) == len(gates)
    assert f"{counts['unit']} by unit tests, {counts['contract']} by the notebooks' contracts, " in README
    assert f"{counts['nbval']} by strict nbval)" in README
    added = (runs.ROOT / "benchmarks/results/mutants_added.txt").read_text().splitlines()
    assert added[-1] == f"caught {len(added) - 2} of {len(added) - 2}"
    assert f"second run, {len(added) - 2} of {len(added) - 2} (" in README


def test_how_steady_nbval_is_and_the_coverage_stand_in_their_files():
    results = runs.ROOT / "benchmarks" / "results"
    green = pd.read_csv(results / "nbval_steady.csv")["green"]
    assert f"{green.sum()} of {len(green)} runs were green" in README and len(green) >= 20
    total = (results / "coverage.txt").read_text().split("TOTAL")[1].split()[2]
    assert f"it was {total.replace('%', ' %')} (" in README


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http|#)([^)]+)\)", README))
def test_a_link_leads_somewhere(link):
    assert (runs.ROOT / link).is_file()
