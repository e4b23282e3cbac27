"""Sweeps: what is wrong is said before anything starts, nothing finished is lost, and nothing is done twice."""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import CancelledError
from contextlib import chdir, nullcontext
from unittest.mock import MagicMock, Mock

import nbformat
import numpy as np
import pytest
import yaml
from distributed import default_client

from fmnist_utils import runs, sweep

HEAD = 'run_name: str = ""\nruns_dir: str = ""\nseed: int = 0\nwhat: str = ""\ndropout: float = 0.1\nfilters: str = ""'
CELL = """import json, os, pathlib, time
exec(what)
folder = pathlib.Path(runs_dir, run_name)
(folder / ".work").mkdir(parents=True)
facts = {"val_accuracy": seed / 10, "dropout": dropout, "threads": os.environ["TF_NUM_INTEROP_THREADS"]}
(folder / "metrics.json").write_text(json.dumps({**facts, "works in": os.getcwd()}))
assert "late" not in globals()"""
GOOD = ["", "pathlib.Path('m').exists() or (open('m', 'w'), os.kill(os.getppid(), 9), time.sleep(600))"]
BAD = {"raise ValueError('as asked – ✓')": "[3]: ValueError: as asked – ✓", "os.kill(os.getpid(), 9)": "Kernel died"}
BAD |= {"time.sleep(99)": "10 seconds", "pathlib.Path.write_text = print": "wrote no", "late = 1": "AssertionError"}


def made(folder):
    """Make a notebook that trains nothing, of a kernel that is not here, and a parameter file beside it."""
    cells = [nbformat.v4.new_code_cell(HEAD, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(CELL)]
    kernel = {"kernelspec": {"name": "myenv", "display_name": "My env", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "trivial.ipynb")
    (folder / "base.yaml").write_text("dropout: 0.3\nepochs: 3\n", encoding="utf-8")
    return folder


@pytest.fixture
def trivial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return made(tmp_path)


def sweep_file(folder, **content):
    path = folder / "sweep.yaml"
    path.write_text("# – ✓\n" + yaml.safe_dump({"notebook": "trivial.ipynb", **content}), encoding="utf-8")
    return str(path)


def names(folder, **content):
    return list(sweep.read_sweep(sweep_file(folder, **content))[2])


def test_file_combinations(trivial):
    """Every combination is a run, a round of all for each seed; the base's names that it lacks are left out."""
    drawn = {"samples": 2, "seed": 3, "ranges": {"dropout": {"low": 0.01, "high": 0.5, "log": True}}}
    content = {"variants": [{}, {"what": "raise"}], "grid": {"filters": ["a", "b"]}, "random": drawn, "seeds": [0, 1]}
    notebook, base, overrides = sweep.read_sweep(sweep_file(trivial, base="base.yaml", **content))
    assert (notebook.name, base) == ("trivial.ipynb", {"dropout": 0.3})
    assert [changes["seed"] for changes in overrides.values()] == [0] * 8 + [1] * 8
    assert len({(c.get("what"), c["filters"], c["dropout"]) for c in overrides.values()}) == 8
    assert list(overrides) == names(trivial, base="base.yaml", **content)


def test_random_shares():
    """Each whole number, the limits too, and each power of ten has its share."""
    ranges = {"whole": {"low": 1, "high": 4}, "log": {"low": 0.0001, "high": 1, "log": True}}
    drawn = sweep._samples({"samples": 4000, "ranges": ranges}, {"whole": 2, "log": 0.1})
    assert np.bincount([sample["whole"] for sample in drawn]) == pytest.approx([0] + [1000] * 4, abs=120)
    assert len({sample["x"] for sample in sweep._samples({"samples": 9, "ranges": {"x": ranges["whole"]}}, {})}) == 9
    assert np.histogram(np.log10([sample["log"] for sample in drawn]), range(-4, 1))[0] == pytest.approx(1000, abs=120)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"grids": {}}, "unknown grids. Allowed are base, grid, notebook"), ({"grid": None}, "grid: None"),
     ({"notebook": "nowhere.ipynb"}, "notebook = 'nowhere.ipynb': there is no such file"),
     ({"notebook": str(runs.ROOT / "notebooks" / "01_data_exploration.ipynb")}, "cannot be swept"),
     ({"grid": {"rate": [1]}}, "unknown rate. Allowed are dropout, filters, seed, what"),
     ({"grid": {"run_name": ["a"]}}, "unknown run_name"), ({"grid": {1: [2], "dropout": [0.1]}}, "unknown 1"),
     ({"grid": {"dropout": 0.1}}, "grid, dropout = 0.1: allowed is a list"), ({"variants": [1]}, "variants: 1"),
     ({"grid": {"dropout": ["1e-3"]}}, "YAML wants 1.0e-3"), ({"seeds": [0.5]}, "seed = 0.5"),
     ({"grid": {"dropout": [0.2, 0.2]}}, "the same run twice: with dropout = 0.2 and with dropout = 0.2"),
     ({"seeds": [0], "grid": {"seed": [1]}}, "seed appears in two of variants, grid, random and seeds"),
     ({"random": 3}, "random = 3"), ({"random": {"samples": 0, "ranges": {}}}, r"samples = \[\]"),
     ({"random": {"samples": 2, "ranges": {"dropout": {"low": 0, "high": 1, "log": True}}}}, "positive"),
     ({"random": {"samples": 2, "ranges": {"dropout": {"low": 0.5, "high": 0.1}}}}, "numbers low < high"),
     ({"base": None}, "cannot read None")]
    + [({"random": {"samples": 2, "ranges": {"dropout": {"low": 0.1, "high": 0.5}}, **wrong}}, message)
       for wrong, message in [({"sed": 5}, "unknown sed"), ({"seed": None}, "seed is no whole number"),
                              ({"ranges": {"dropout": {"low": "1e-4", "high": 1}}}, "; 1.0e-4, not 1e-4"),
                              ({"ranges": {"dropout": {"low": 0.1, "high": 1, "log": "false"}}}, "numbers low < high"),
                              ({"ranges": {"dropout": {"low": 0.1, "high": 1, "logs": True}}}, "unknown logs"),
                              ({"ranges": {"seed": {"low": 0.5, "high": 2}}}, "low"), ({"samples": True}, "no whole")]],
)  # fmt: skip
def test_bad_file(trivial, content, message):
    """It is refused in one line."""
    with pytest.raises(ValueError, match=message) as caught:
        sweep.read_sweep(sweep_file(trivial, **content))
    assert "\n" not in str(caught.value)


def test_shipped_files(monkeypatch):
    """The ablation takes away each component, at the seeds of the base."""
    monkeypatch.chdir(runs.ROOT)
    ablation, *_ = (sweep.read_sweep(f"sweeps/{name}.yaml")[2] for name in ("ablation", "learning_rate", "seeds"))
    for name in ("batch_norm", "dropout", "pooling_head", "dense_units", "augment", "schedule", "early_stopping"):
        seeds = [{c["seed"] for c in ablation.values() if c.keys() == {*of, "seed"}} for of in ((), (name,))]
        assert seeds == [{0, 1, 2, 3}] * 2, name


def test_run_name(trivial, monkeypatch):
    """It changes with parameters, code cells, modules beside them and the code that trains, and not with prose."""
    (before,) = names(trivial, seeds=[0])
    notebook = nbformat.read("trivial.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("prose"))
    notebook.cells[1].source += "  # and more"
    nbformat.write(notebook, "trivial.ipynb")
    assert names(trivial) == [before] != names(trivial, seeds=[1])
    monkeypatch.setattr(sweep, "code_hash", lambda cells: "of other code")
    found = [before, *names(trivial)]
    sweep.Path("mine.py").write_text("x = 1", encoding="utf-8")  # a module beside the notebook
    found += names(trivial)
    notebook.cells[1].source += "\nx = 1"
    nbformat.write(notebook, "trivial.ipynb")
    assert len({*found, *names(trivial)}) == 4


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """One run of each kind, by two workers of this machine: the sweep file, what went wrong in each, their folders."""
    folder, queued, collect = made(tmp_path_factory.mktemp("swept")), [], sweep._collect

    def watching(*arguments):
        queued.append(max(map(len, default_client().processing().values())))
        return collect(*arguments)

    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_collect", watching)
        path = sweep_file(folder, base="base.yaml", seeds=[1], grid={"what": [*GOOD, *BAD]})
        described = sweep.read_sweep(path)
        result = sweep.run_sweep(*described, "out", workers=2, threads=1, cell_seconds=10)
    assert len(queued) == 7 and max(queued) == 1, "a run waited behind another"
    what = {changes["what"]: name for name, changes in described[2].items()}
    return path, {k: result[n] for k, n in what.items()}, {k: folder / "out" / n for k, n in what.items()}


@pytest.mark.parametrize("what", [*GOOD, *BAD])
def test_run(what, swept):
    """Base, changes and threads reach it, a killed worker's begins again; a failure is told, and what it left kept."""
    _, wrong, folders = swept
    assert nbformat.read(folders[what] / "notebooks" / "trivial.ipynb", as_version=4).cells
    if what in GOOD:
        metrics = json.loads((folders[what] / runs.METRICS).read_text(encoding="utf-8"))
        facts = {"val_accuracy": 0.1, "dropout": 0.3, "threads": "1", "works in": str(folders[what].parents[1])}
        assert (wrong[what], metrics) == ("", facts)
    else:
        assert BAD[what] in wrong[what] and set(os.listdir(folders[what])) == {"notebooks"}


def test_command_again(swept, monkeypatch, capsys):
    """Complete runs stay, the others are tried again; it ends with a table, and fails where a run did."""
    path, _, folders = swept
    keys, cluster = [f"run-{folders[what].name}" for what in BAD], MagicMock()
    monkeypatch.chdir(folders[""].parents[1])
    monkeypatch.setattr(sweep, "_cluster", cluster)
    monkeypatch.setattr(sweep, "check_workers", Mock())
    monkeypatch.setattr(sweep, "as_completed", lambda _: [Mock(key=key) for key in keys])
    monkeypatch.setattr(sweep, "_collect", lambda _, folder: f"again {folder.name}")
    with pytest.raises(SystemExit, match="5 of 7 runs failed"):
        sweep.main([path, "--output", "out"])
    shown = capsys.readouterr().out
    assert cluster().__enter__().map.call_args.kwargs == {"key": keys, "retries": 2}
    assert "2 of 7 runs are complete already" in shown and shown.count("val_accuracy 0.1  ") == 2
    assert all(f"failed: again {folders[what].name}  what = " in shown for what in BAD)


def test_workers_and_threads(trivial, monkeypatch):
    """No more workers than runs are left; the threads of a run do not depend on how many are."""
    cluster, check = MagicMock(), Mock(side_effect=InterruptedError)
    for name, value in (("CPU_COUNT", 12), ("check_workers", check), ("_cluster", cluster)):
        monkeypatch.setattr(sweep, name, value)
    described = sweep.read_sweep(sweep_file(trivial, seeds=[1, 2, 3, 4]))
    done = trivial / "out" / next(iter(described[2]))
    for options in ({"workers": 9}, {"workers": 2, "threads": 5}, {"workers": 4}, {"workers": 2, "scheduler": "there"}):
        with pytest.raises(InterruptedError):
            sweep.run_sweep(*described, "out", **options)
        done.mkdir(exist_ok=True)
        (done / runs.METRICS).touch()
    assert [call.args for call in cluster.call_args_list] == [(4, None), (2, None), (3, None), (2, "there")]
    assert [call.args[1] for call in check.call_args_list] == [3, 5, 3, None]


HERE = sweep.worker_info()
OTHER = {**HERE, "versions": {**HERE["versions"], "package": "of yesterday"}}
NONE = ModuleNotFoundError("No module named 'fmnist_utils'")


@pytest.mark.parametrize(
    ("slots", "info", "error"),
    [([], HERE, "the cluster has no worker"), ([1, 2], HERE, r"takes 2 runs .* Start it with --nthreads 1"),
     ([1], OTHER, "has another package. Install the same"), ([1], NONE, "does not have this project: No"),
     ([1, 1, 1, 1], {**HERE, "cores": 8}, "")],
)  # fmt: skip
def test_check_workers(slots, info, error):
    slots = dict(enumerate(slots))
    client = Mock(nthreads=lambda: slots, run=lambda *_, **__: {worker: info for worker in slots})
    with pytest.raises(runs.RunError, match=error) if error else nullcontext():
        assert sweep.check_workers(client) == {HERE["host"]: 2} and sweep.check_workers(client, 3) == {HERE["host"]: 3}


def test_worker_that_joins_later(monkeypatch):
    """It refuses a run where its code is another, so that the engine tries elsewhere."""
    monkeypatch.setattr(sweep, "get_worker", lambda: Mock(address="there", **{"state.nthreads": 1}))
    with pytest.raises(runs.RunError, match="there has another package"):
        sweep.run_notebook("{}", "trivial.ipynb", "name", {}, {}, 60, OTHER["versions"])


def test_collect(tmp_path, monkeypatch):
    """What the engine raises is told; a lost scheduler or a full disk ends the sweep, and no half folder stays."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("new", "")
    folder, failed = tmp_path / "run", Mock(**{"result.return_value": ("cell [2]", file.getvalue())})
    (folder / "old").mkdir(parents=True)
    assert sweep._collect(Mock(**{"result.side_effect": KeyError("killed")}), folder) == "KeyError: 'killed'"
    with pytest.raises(runs.RunError, match=r"the scheduler was lost\. Finished runs are kept"):
        sweep._collect(Mock(**{"result.side_effect": CancelledError()}), folder)
    assert os.listdir(folder) == ["old"]
    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        full.setattr(os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
        sweep._collect(failed, folder)
    with sweep._locked(tmp_path):
        assert os.listdir(tmp_path) == [".sweep.lock"]
        assert sweep._collect(failed, folder) == "cell [2]" and os.listdir(folder) == ["new"]


def test_sweep_that_cannot_start(trivial):
    with pytest.raises(SystemExit, match="no scheduler answers at not-an-address://x"):
        sweep.main([sweep_file(trivial), "--output", "out", "--scheduler", "not-an-address://x"])
    refused = pytest.raises(SystemExit, match="another sweep is writing it now: choose another --output")
    with sweep._locked(trivial / "out"), refused:
        sweep.main([sweep_file(trivial), "--output", "out"])


def test_dry_run_in_an_old_terminal(trivial, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file := io.BytesIO(), "ascii", write_through=True))
    monkeypatch.setenv("HOME", str(trivial))
    sweep.main([sweep_file(trivial, grid={"what": ["– ✓"]}), "--dry-run", "--output", "~/out"])
    assert f"1 runs of trivial.ipynb, into {trivial}/out\n" in file.getvalue().decode()
    assert "what = \\u2013 \\u2713" in file.getvalue().decode() and not (trivial / "out").exists()


CLUSTER = """from distributed import LocalCluster
print(LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None).scheduler_address, flush=True)
input()"""


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True], ids=["Ctrl-C", "scheduler lost"])
def test_stopped(lost, trivial):
    """It is told in one line, nothing finished is lost, and the same command goes on."""
    path = sweep_file(trivial, grid={"what": ["", "while not pathlib.Path('marker').exists(): time.sleep(0.05)"]})
    options = {"encoding": "utf-8", "cwd": trivial, "start_new_session": True, "stdin": -1, "stdout": -1, "stderr": -1}
    options["env"] = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it
    command = [sys.executable, "-m", "fmnist_utils.sweep", path, "--output", "out", "--workers", "1"]
    there = subprocess.Popen([sys.executable, "-c", CLUSTER], **options) if lost else None
    first = subprocess.Popen([*command, *(["--scheduler", there.stdout.readline().strip()] if lost else [])], **options)
    while not list((trivial / "out").glob("[!.]*/metrics.json")):
        assert first.poll() is None, first.stderr.read()
    os.killpg(there.pid if lost else first.pid, signal.SIGKILL if lost else signal.SIGINT)
    _, wrong = first.communicate(timeout=120)
    assert first.returncode == 1 and "Finished runs are kept" in wrong and "Traceback" not in wrong, wrong
    (trivial / "marker").touch()
    shown = subprocess.run(command, cwd=trivial, capture_output=True, encoding="utf-8", check=True).stdout
    assert "1 of 2 runs are complete already" in shown
