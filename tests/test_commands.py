"""make, ruff and pytest as a user calls them: in a folder that moved, with spaces, under settings of their own."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from shipped import ROOT, shipped

PYTHON = r"""#!/bin/sh
# stands for Python: notes how it was called, and makes an environment that consists of itself
{ printf '%s|' "$@"; echo; } >> "LOG"
for last; do :; done
case "$1 $2 $3" in
"-m venv --clear")
    rm -rf "$last"; mkdir -p "$last/bin"; cp "$0" "$last/bin/python"
    echo "VIRTUAL_ENV='$PWD/$last'" > "$last/bin/activate";;
"-m uv pip") test ! -e no_uv;;
"-m pip --version") test ! -e .venv/no_pip;;
esac
"""
MADE = ["-m|venv|--clear|.venv|", "-m|pip|", "-m|uv|pip|install|"]


@pytest.fixture
def project(tmp_path):
    """A folder with a space, with the Makefile and what it reads; the Python of `make` is beside it."""
    folder = tmp_path / "the project"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "a python"
    python.write_text(PYTHON.replace("LOG", str(tmp_path / "calls")), encoding="utf-8")
    python.chmod(0o755)
    return folder


def make(folder, *words):
    """Call make; return what it called Python with, a line each, checks left out."""
    log = folder.parent / "calls"
    log.write_text("", encoding="utf-8")
    command = ["make", f"PYTHON={folder.parent / 'a python'}", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    lines = log.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith(("-c|", "--version|", "-m|pip|--version|"))]


def installs(lines):
    return [start for line in lines for start in MADE if line.startswith(start)]


def test_make_twice(project):
    """It sets up once, by uv."""
    assert installs(make(project, "setup")) == MADE
    assert make(project, "setup") == []


def test_make_folder_moved(project):
    make(project, "setup")
    moved = project.rename(project.with_name("renamed"))
    assert installs(make(moved, "setup")) == MADE
    assert make(moved, "setup") == []


def test_make_folder_copied(project):
    """The copy gets an environment of its own; the original keeps the one it has."""
    make(project, "dev-tools")
    copied = shutil.copytree(project, project.with_name("copied"), symlinks=True)
    assert installs(make(copied, "dev-tools")) == [*MADE, "-m|uv|pip|install|"]
    assert make(project, "dev-tools") == []


@pytest.mark.parametrize("interrupted", ["before activate", "before pip", "while installing"])
def test_make_interrupted_setup(interrupted, project):
    make(project, "setup")
    (project / ".venv" / ".ready").unlink()
    if interrupted == "before activate":
        (project / ".venv" / "bin" / "activate").unlink()
    if interrupted == "before pip":
        (project / ".venv" / "no_pip").touch()
    assert installs(make(project, "setup")) == (MADE[1:] if interrupted == "while installing" else MADE)


def test_make_environment_by_hand(project):
    """One that was made by README's plain commands, in this folder, is kept."""
    subprocess.run([project.parent / "a python", "-m", "venv", "--clear", ".venv"], cwd=project, check=True)
    assert installs(make(project, "setup")) == MADE[1:]


def test_make_without_uv(project):
    """pip alone installs where uv cannot."""
    (project / "no_uv").touch()
    assert any(line.startswith("-m|pip|install|") and "|requirements.txt|" in line for line in make(project, "setup"))


@pytest.mark.parametrize(
    ("words", "call"),
    [(("run", "PARAMS=params/my own.yaml"), "-m|fmnist_utils.pipeline|params/my own.yaml|"),
     (("sweep", "SWEEP=sweeps/my own.yaml", "OPTIONS=--dry-run"),
      "-m|fmnist_utils.sweep|sweeps/my own.yaml|--dry-run|")],
    ids=["run", "sweep"],
)  # fmt: skip
def test_make_names_with_spaces(words, call, project):
    assert make(project, *words)[-1] == call


def test_ruff_without_repository(tmp_path):
    """What is made, and what others wrote, is left alone where no .gitignore says so."""
    pytest.importorskip("ruff", reason="ruff is not installed: requirements-dev.txt")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("runs/mine", "build", ".venv/lib"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "bad.py").write_text("import os,sys", encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("repository", [True, False])
def test_shipped_leaves_out_a_users_files(repository, tmp_path):
    for folder in ("notebooks", "params", "sweeps", "tests"):
        (tmp_path / folder).mkdir()
    ours = {"notebooks/01_data_exploration.ipynb", "params/quick.yaml", "sweeps/seeds.yaml", "tests/shipped.py"}
    theirs = {"out.ipynb", "notebooks/Untitled.ipynb", "params/mine.yaml", "sweeps/mine.yaml"}
    theirs |= {"notebooks/01_data_exploration-Copy1.ipynb"}
    for name in ours:
        (tmp_path / name).touch()
    if repository:
        subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
        subprocess.run(["git", "add", *ours], cwd=tmp_path, check=True)
    for name in theirs:
        (tmp_path / name).touch()
    found = {path for pattern in ("*", "*/*") for path in shipped(pattern, tmp_path)}
    assert {str(path.relative_to(tmp_path)) for path in found} == ours


@pytest.mark.slow
def test_tests_leave_out_a_users_files(tmp_path):
    """In an unpacked archive with files of a user's own, the tests of files are those of the project's files."""
    skip = shutil.ignore_patterns(".*", "runs", "build", "reference", "results", "__pycache__", "*.egg-info", "shared")
    shutil.copytree(ROOT, tmp_path / "project", ignore=skip)
    files = [f"tests/test_{name}.py" for name in ("notebooks", "notebook_style", "parameters", "package_layers")]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    options = {"cwd": tmp_path / "project", "env": {**os.environ, "PYTHONPATH": str(tmp_path / "project")}}
    before = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", **options).stdout
    for name, source in (("notebooks/Untitled", "02_model"), ("notebooks/02_model-Copy1", "02_model")):
        shutil.copy(ROOT / "notebooks" / f"{source}.ipynb", tmp_path / "project" / f"{name}.ipynb")
    (tmp_path / "project" / "params" / "mine.yaml").write_text("epochs: 1\n", encoding="utf-8")
    after = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", **options).stdout
    listed = [[line for line in told.splitlines() if "::" in line] for told in (before, after)]
    assert len(listed[0]) > 100 and listed[0] == listed[1]


def test_shipped_names_without_repository():
    """The names that serve in an unpacked archive are those of the repository."""
    for pattern in ("notebooks/*.ipynb", "notebooks/*/*.ipynb", "params/*.yaml", "sweeps/*.yaml"):
        listed = {path for name in shipped_names() for path in ROOT.glob(name)}
        assert set(shipped(pattern)) <= listed, "add the new file to NAMES in tests/shipped.py"


def shipped_names():
    import shipped as module

    return module.NAMES


@pytest.mark.slow
def test_nbval_users_settings(tmp_path):
    """Neither colour, width, backend nor a home that cannot be written decide; each notebook stays in one process."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "figures.py", tmp_path / "tests")
    for i in range(2):
        cells = [nbformat.v4.new_code_cell(source) for source in (SHOW, "y = 1", "y + 1")]
        for count, cell in enumerate(cells, start=1):
            cell.execution_count = count
        cells[0].outputs = [nbformat.v4.new_output("stream", text="80 None True True 10.0\n")]
        cells[2].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=3)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"n{i}.ipynb")
    (tmp_path / "matplotlibrc_of_the_user").write_text("font.size: 33\n", encoding="utf-8")
    settings = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc_of_the_user")}
    settings |= {"NO_COLOR": "1", "COLUMNS": "60", "MPLBACKEND": "Agg", "HOME": str(tmp_path / "none")}
    command = [sys.executable, "-m", "pytest", "--nbval", "-n", "2", "-q", "-p", "no:cacheprovider", tmp_path]
    environment = {**os.environ, **settings}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout


SHOW = """import os
import matplotlib
names = ("COLUMNS", "NO_COLOR")
print(*map(os.environ.get, names), "inline" in os.environ["MPLBACKEND"], end=" ")
print(os.access(os.environ["HOME"], os.W_OK), matplotlib.rcParams["font.size"])"""
