"""The README's commands work, or say what they need beyond a test; its numbers are those of the files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fmnist_utils import _sweep_file, comparison, runs

README = (runs.ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]
MARKED = [line for line in COMMANDS if re.search(r"# \((?:opens a browser|needs \w+|many machines)\)", line)]
MAKE = [line for line in COMMANDS if line.startswith("make ")]
PAPERMILL = [line for line in COMMANDS if line.startswith("papermill notebooks/")]
DRY_RUN = [line for line in COMMANDS if "--dry-run" in line]
# set-up and tests: this very test run has gone through them
RUN_ELSEWHERE = ("python3 -m venv", "source ", "pip install -r", "python -m pytest", "python -m fmnist_utils.pipeline")
SHORT = ["-p", "train_size", "500", "-p", "epochs", "1", "-y", "{filters: [4, 8], convs_per_block: [1, 1]}"]


def run(command):
    """Run a command of the environment's own tools in the project; return what it printed."""
    words = shlex.split(command, comments=True) if isinstance(command, str) else command
    tool = sys.executable if words[0] == "python" else str(Path(sys.executable).with_name(words[0]))
    done = subprocess.run([tool, *words[1:]], cwd=runs.ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_commands_are_tested_or_marked():
    rest = [line for line in COMMANDS if line not in MAKE + MARKED + PAPERMILL + DRY_RUN]
    assert [line for line in rest if not line.startswith(RUN_ELSEWHERE)] == [
        "papermill --help-notebook notebooks/03_training.ipynb",
        "python -m fmnist_utils.data",
    ], "test the new command here, or say `# (needs …)` behind it"
    assert PAPERMILL and DRY_RUN and MAKE


@pytest.mark.parametrize("line", MAKE)
def test_make_knows_the_target(line):
    words = [*shlex.split(line, comments=True), "-n"]
    assert subprocess.run(words, cwd=runs.ROOT, capture_output=True).returncode == 0


def test_data_says_which_source_served():
    assert "SHA-256 checked. Source: " in run("python -m fmnist_utils.data")


def test_papermill_shows_parameters_with_type_and_help():
    shown = " ".join(run("papermill --help-notebook notebooks/03_training.ipynb").split())
    assert "filters: list (default [32, 64, 128])" in shown
    assert "label_smoothing: float" in shown and "Unknown" not in shown


@pytest.mark.parametrize("line", DRY_RUN)
def test_dry_run_lists_the_runs(line):
    shown = run(line)
    assert "52 runs of notebooks/03_training.ipynb" in shown and "batch_norm = False, seed = 3" in shown


def test_sweep_file_shown_is_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shown.yaml").write_text(shown, encoding="utf-8")
    assert len(_sweep_file.read_sweep(tmp_path / "shown.yaml")[2]) == 2 * 2 * 4 * 3


@pytest.mark.slow
def test_papermill_commands_one_after_the_other(tmp_path):
    """As they stand, but for a few options that shorten the training."""
    for line in PAPERMILL:
        words = shlex.split(line, comments=True)
        words[2] = str(tmp_path / "out.ipynb")
        if "03_training" in line:
            words += SHORT if "-y" not in words else [*SHORT[:6], "-y", "{convs_per_block: [1, 1, 1]}"]
        run(words)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:txt|yml|toml|md|yaml))`", README)))
)
def test_file_named_exists(name):
    assert (runs.ROOT / name).exists() or name.startswith(("runs/", "environment.json", "build/", "etc/", "OWNER/"))


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http|#)([^)]+)\)", README))
def test_link_leads_somewhere(link):
    assert (runs.ROOT / link).is_file()


@pytest.fixture
def readme_numbers(monkeypatch):
    monkeypatch.syspath_prepend(runs.ROOT / "tools")
    import readme_numbers

    return readme_numbers


def test_numbers_are_those_of_the_files(readme_numbers):
    assert readme_numbers.renew(README) == README, "run `python tools/readme_numbers.py`"


def test_numbers_are_all_shown(readme_numbers):
    marked = [name for name, _ in readme_numbers.MARKED.findall(README)]
    assert sorted(marked) == sorted(readme_numbers.numbers()), "mark each number once, or take it out of the tool"
    assert not re.search(r"^\s*(?:- )?<!--", README, re.MULTILINE), "no marker may begin a line"


def test_numbers_of_an_unknown_name(readme_numbers):
    with pytest.raises(ValueError, match=r"README\.md marks quick\.speed: allowed are reference\.training, "):
        readme_numbers.renew("<!-- quick.speed -->1<!-- / -->")


def test_ablation_leaves_undecided_what_the_readme_says():
    lost = comparison.paired_differences(comparison.read_runs(runs.ROOT / "sweeps/results/ablation"), comparison.BASE)
    undecided = set(lost.index[(lost["low"] <= 0) & (lost["high"] >= 0)])
    told = {"early_stopping = False", "dropout = 0", "dense_units = 0", "pooling_head = flatten", "label_smoothing = 0",
            "augment = none"}  # fmt: skip
    assert told <= undecided, "the ablation has changed: rewrite the README's sentence on what four seeds cannot tell"
