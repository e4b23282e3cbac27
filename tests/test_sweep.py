"""Sweeps: what is wrong is said before anything starts, nothing finished is lost, and nothing is done twice.

Most tests use a notebook that trains nothing, so that a run takes about a second. It was made with a kernel that is not
here, and has letters in it that an 8-bit code page lacks.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster, default_client
from shipped import shipped

from fmnist_utils import _download, _environment, _files, _sweep_file, _sweep_worker, pipeline, runs, sweep

HEAD = """run_name: str = "x"  # name
runs_dir: str = "runs"  # folder
seed: int = 0  # number
what: str = "write"  # to do
marker: str = "marker"  # file
dropout: float = 0.1  # share
epochs: int = 1  # of its own
filters: str = "none"  # of its own: no list, as 03's are
augment: bool = True  # of its own"""
CELL = """
import json, os, pathlib, signal, time
folder = pathlib.Path(runs_dir) / run_name
folder.mkdir(parents=True, exist_ok=True)
once = pathlib.Path(marker)
if what == "raise":
    raise ValueError("as asked – ✓")
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "hang":
    time.sleep(100)
if what == "kill the worker once" and not once.exists():
    once.touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
if what == "wait for the marker":
    while not once.exists():
        time.sleep(0.05)
if what == "import from beside":
    import beside
if what != "write nothing":
    text = json.dumps({"val_accuracy": seed / 10, "train_seconds": 1.0, "pid": os.getpid()})
    (folder / "metrics.json").write_text(text)
"""


@pytest.fixture
def trivial(tmp_path, monkeypatch):
    """A folder with a notebook that trains nothing, and a module beside it; the working directory is there."""
    head = nbformat.v4.new_code_cell(HEAD, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[head, nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "myenv", "display_name": "My env", "language": "python"}
    nbformat.write(notebook, tmp_path / "trivial.ipynb")
    (tmp_path / "beside.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep_file(folder, **content):
    path = folder / "sweep.yaml"
    text = yaml.safe_dump({"notebook": "trivial.ipynb", **content})
    path.write_text(f"# – ✓\n{text}", encoding="utf-8")
    return path


def swept(folder, options=None, **content):
    """Run a sweep; return {(what, seed): what went wrong}, and {(what, seed): folder}."""
    notebook, base, overrides = _sweep_file.read_sweep(sweep_file(folder, **content))
    result = sweep.run_sweep(notebook, base, overrides, folder / "out", **{"workers": 2, **(options or {})})
    told = {(changes.get("what", "write"), changes.get("seed", 0)): name for name, changes in overrides.items()}
    return {key: result[name] for key, name in told.items()}, {k: folder / "out" / n for k, n in told.items()}


def metrics(folder):
    return json.loads((folder / runs.METRICS).read_text(encoding="utf-8"))


def names(folder, **content):
    return set(_sweep_file.read_sweep(sweep_file(folder, **content))[2])


# ---------------------------------------------------------------------------------------------- the sweep file


def test_file_combinations(trivial):
    """Every combination of the parts is a run, a round of all for each seed, and the same at each reading."""
    path = sweep_file(
        trivial,
        variants=[{}, {"what": "raise"}],
        random={"samples": 2, "seed": 3, "ranges": {"dropout": {"low": 0.01, "high": 0.5, "log": True}}},
        seeds=[0, 1, 2],
    )
    _, _, overrides = _sweep_file.read_sweep(path)
    assert [changes["seed"] for changes in overrides.values()] == [0] * 4 + [1] * 4 + [2] * 4
    drawn = {changes["dropout"] for changes in overrides.values()}
    assert len(drawn) == 2 and all(0.01 <= value <= 0.5 for value in drawn)
    assert overrides == _sweep_file.read_sweep(path)[2]


@pytest.mark.parametrize(
    ("limits", "edges", "share"),
    [({"low": 1, "high": 4}, [1, 2, 3, 4, 5], 1000),
     ({"low": 0.0001, "high": 0.1, "log": True}, [1e-4, 1e-3, 1e-2, 0.1], 1333)],
    ids=["whole", "log"],
)  # fmt: skip
def test_random_shares(limits, edges, share):
    """Each whole number, the limits too, and each power of ten has its share."""
    drawn = [sample["x"] for sample in _sweep_file._samples("file", {"samples": 4000, "ranges": {"x": limits}})]
    assert {type(value) for value in drawn} == {type(limits["low"])}
    assert min(drawn) >= limits["low"] and max(drawn) <= limits["high"]
    assert np.histogram(drawn, edges)[0] == pytest.approx([share] * (len(edges) - 1), abs=120)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grids": {}}, "unknown key grids. There are: notebook, base"),
        ({"notebook": "nowhere.ipynb"}, "notebook = 'nowhere.ipynb': there is no such file"),
        ({"grid": {"rate": [1]}}, "has no parameter rate. There are: augment, dropout, epochs, filters, marker, seed"),
        ({"grid": {"dropout": []}}, r"grid, dropout = \[\]: allowed is a list with at least one"),
        ({"grid": {"dropout": 0.1}}, "grid, dropout = 0.1: allowed is a list"),
        ({"grid": ["dropout"]}, "grid = .* must hold lines"),
        ({"grid": {}}, "grid = {}: it must hold lines"),
        ({"grid": None}, "grid = None: it must hold lines"),
        ({"grid": {"dropout": [1.5]}}, "dropout = 1.5 .*allowed is float, 0 to less than 1"),
        ({"grid": {"dropout": ["1e-3"]}}, "write 1.0e-3"),
        ({"grid": {"dropout": [0.2, 0.2]}}, "the same run twice, with dropout = 0.2 and with dropout = 0.2"),
        ({"variants": [{}, {"dropout": 0.1}]}, "the same run twice, with the base as it is and with dropout = 0.1"),
        ({"variants": [0.1]}, "variants must be a list of mappings"),
        ({"grid": {"run_name": ["a"]}}, "run_name cannot be swept"),
        ({"seeds": []}, r"seeds = \[\]"),
        ({"seeds": [0.5]}, "seed = 0.5"),
        ({"seeds": [0], "grid": {"seed": [1]}}, "seed stands in two of variants, grid, random and seeds"),
        ({"random": {"samples": 0, "ranges": {"dropout": {"low": 0, "high": 1}}}}, "random, samples"),
        ({"random": {"samples": 2, "ranges": {"dropout": {"low": 0, "high": 0.5, "log": True}}}}, "more than 0 on a"),
        ({"random": {"samples": 2, "ranges": {"dropout": {"low": 0.5, "high": 0.1}}}}, "low must be less"),
        ({"base": ["params.yaml"]}, r"base = \['params.yaml'\]: it must name a parameter file"),
        ({"random": 3}, "random = 3"),
        ({"base": "nowhere.yaml"}, "cannot read the parameter file nowhere.yaml"),
    ],
)
def test_bad_file(trivial, content, message):
    """It is refused in one line."""
    with pytest.raises(ValueError, match=message) as caught:
        _sweep_file.read_sweep(sweep_file(trivial, **content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["grid: [5", "- 5"])
def test_file_no_yaml_mapping(trivial, text):
    (trivial / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml") as caught:
        _sweep_file.read_sweep("bad.yaml")
    assert "\n" not in str(caught.value)


def test_shipped_files(monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    for path in shipped("sweeps/*.yaml"):
        assert _sweep_file.read_sweep(path)[2]


def test_shipped_ablation(monkeypatch):
    """It takes away each component, at the seeds of the base, and no variant leaks into what all share."""
    monkeypatch.chdir(runs.ROOT)
    _, base, overrides = _sweep_file.read_sweep("sweeps/ablation.yaml")
    seeds_of = {}
    for changes in overrides.values():
        seeds_of.setdefault(frozenset(changes) - {"seed"}, set()).add(changes["seed"])
    for name in ("batch_norm", "dropout", "pooling_head", "dense_units", "augment", "schedule", "early_stopping"):
        assert seeds_of[frozenset([name])] == seeds_of[frozenset()] >= {0, 1, 2, 3}, name
    shared = pipeline.read_parameters("params/quick.yaml")
    assert base == {name: value for name, value in shared.items() if name != "run_name"}


@pytest.mark.parametrize("path", shipped("notebooks/0*.ipynb"), ids=lambda path: path.stem)
def test_notebooks_that_can_be_swept(path, tmp_path):
    """Of the project's, 03 alone writes runs; of the others that is said before anything starts."""
    file = sweep_file(tmp_path, notebook=str(path))
    if path.stem == pipeline.TRAINING:
        assert len(_sweep_file.read_sweep(file)[2]) == 1
        return
    with pytest.raises(ValueError, match=r"cannot be swept: it (declares no parameter|writes no metrics\.json)"):
        _sweep_file.read_sweep(file)


def test_notebook_with_parameters_of_its_own(trivial):
    """Names that are 03's too may mean something else in it, and no training time is foretold."""
    notebook, base, overrides = _sweep_file.read_sweep(sweep_file(trivial, grid={"augment": [True, False]}))
    assert len(overrides) == 2
    assert sweep.estimate(base, overrides, pipeline.defaults(notebook), 1) is None


@pytest.mark.parametrize("metadata", [{}, {"kernelspec": {"name": "myenv", "display_name": "My env"}}], ids=str)
def test_notebook_without_a_language(metadata, trivial):
    """It is one of Python, and runs on this Python's kernel."""
    notebook = nbformat.read("trivial.ipynb", as_version=4)
    notebook.metadata = metadata
    nbformat.write(notebook, "trivial.ipynb")
    result, _ = swept(trivial, seeds=[1])
    assert set(result.values()) == {""}


@pytest.mark.parametrize(
    ("head", "metadata", "message"),
    [(f"{HEAD}\nwidth: int = 2 * 3", {}, r"the parameter width = 2 \* 3: allowed is a plain value"),
     (HEAD, {"language_info": {"name": "R"}}, "the notebook's language is R: allowed is Python")],
    ids=["no plain value", "another language"],
)  # fmt: skip
def test_notebook_that_cannot_be_read(head, metadata, message, trivial):
    notebook = nbformat.read("trivial.ipynb", as_version=4)
    notebook.cells[0].source = head
    notebook.metadata = metadata
    nbformat.write(notebook, "trivial.ipynb")
    with pytest.raises(ValueError, match=message):
        names(trivial)


@pytest.mark.parametrize("text", ["", "[]", '{"cells": ['])
def test_file_that_is_no_notebook(text, trivial):
    (trivial / "trivial.ipynb").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"trivial\.ipynb: cannot be read as a notebook") as caught:
        names(trivial)
    assert "\n" not in str(caught.value)


def test_estimate(monkeypatch):
    """The reference run's seconds, by images, epochs, work and workers."""
    defaults = pipeline.defaults(pipeline.TRAINING)
    reference = runs.Run(runs.REFERENCE, _files.read_yaml(runs.REFERENCE / runs.PARAMS))
    same = {name: value for name, value in reference.params.items() if name in defaults}
    seconds = runs.read_metrics(reference)["train_seconds"]
    assert sweep.estimate({}, {"a": same}, defaults, 1) == pytest.approx(seconds)
    assert sweep.estimate(same, {"a": {"epochs": 2 * same["epochs"]}, "b": {}}, defaults, 2) == pytest.approx(
        3 * seconds / sweep.SIDE_BY_SIDE
    )
    assert sweep.estimate(same, {"a": {"filters": [8, 8, 8]}}, defaults, 1) < seconds / 4


# ---------------------------------------------------------------------------------------------- names of runs


def test_run_name(trivial):
    """It changes with parameters and code cells, and not with prose."""
    before = names(trivial, seeds=[0])
    assert names(trivial, seeds=[1]) != before
    notebook = nbformat.read("trivial.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("prose"))
    nbformat.write(notebook, "trivial.ipynb")
    assert names(trivial, seeds=[0]) == before
    notebook.cells[1].source += "\nx = 1"
    nbformat.write(notebook, "trivial.ipynb")
    assert names(trivial, seeds=[0]) != before


@pytest.mark.parametrize("file", sorted(_environment.all_files()))
def test_run_name_after_an_edit(file, trivial, edit_package):
    """The modules that train rename the runs, which so start anew; lessons, plots and tools do not."""
    before = names(trivial)
    edit_package(file)
    trains = {"model.py", "augmentation.py", "training.py", "data.py", "_checkpoint.py", "_tensorflow.py"}
    assert (names(trivial) != before) == (file in trains | {"_training_copy.py"})


# ---------------------------------------------------------------------------------------------- runs and faults


def test_failing_runs(trivial):
    """Each failure is told, the others go on, and what is complete stays."""
    what = ["write", "raise", "die", "write nothing", "import from beside"]
    parts = {"variants": [{"marker": str(trivial / "marker")}], "grid": {"what": what}, "seeds": [1]}
    result, folders = swept(trivial, **parts)
    assert result[("write", 1)] == result[("import from beside", 1)] == ""
    assert "ValueError: as asked – ✓" in result[("raise", 1)]
    assert "kernel died" in result[("die", 1)]
    assert "wrote no metrics.json" in result[("write nothing", 1)]
    kept = nbformat.read(folders[("raise", 1)] / "notebooks" / "trivial.ipynb", as_version=4)
    assert any(out.output_type == "error" for cell in kept.cells if cell.cell_type == "code" for out in cell.outputs)
    first = metrics(folders[("write", 1)])

    again, _ = swept(trivial, **parts)
    assert again == result
    assert metrics(folders[("write", 1)]) == first, "a complete run ran again, in another process"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_worker(workers, trivial):
    """Its run is started again, on the same worker where there is only one."""
    variants = [{"marker": str(trivial / "marker"), "what": "kill the worker once"}]
    result, _ = swept(trivial, {"workers": workers}, variants=variants, seeds=[1, 2])
    assert set(result.values()) == {""}


def test_hanging_cell(trivial):
    result, _ = swept(trivial, {"cell_seconds": 6}, grid={"what": ["hang", "write"]})
    assert "more than 6 s" in result[("hang", 0)] and result[("write", 0)] == ""


def test_threads(trivial, monkeypatch):
    """Those of a run do not depend on how many runs are left, and a number that is given stands."""
    monkeypatch.setattr(sweep, "CPU_COUNT", 8)
    asked = []

    def check(client, threads):
        asked.append(threads)
        raise sweep.SweepError("enough")

    monkeypatch.setattr(sweep, "_cluster", lambda *_: nullcontext())
    monkeypatch.setattr(sweep, "check_workers", check)
    for seeds in ([1], [1, 2], [3, 4]):
        with pytest.raises(sweep.SweepError, match="enough"):
            swept(trivial, {"workers": 2}, seeds=seeds)
        for name in names(trivial, seeds=seeds[:1]):  # as if this one had been completed: one of two is left
            (trivial / "out" / name).mkdir(exist_ok=True)
            (trivial / "out" / name / runs.METRICS).touch()
    with pytest.raises(sweep.SweepError, match="enough"):
        swept(trivial, {"workers": 2, "threads": 3}, seeds=[5, 6])
    assert asked == [8, 4, 4, 3]


def test_workers(trivial, monkeypatch):
    """As many as asked for, of the cluster that is named, and no more than runs are left."""
    monkeypatch.setattr(sweep, "CPU_COUNT", 8)
    asked = []

    def check(*cluster):
        asked.append(cluster)
        raise sweep.SweepError("enough")

    monkeypatch.setattr(sweep, "_cluster", check)
    for options in ({"workers": 1}, {"workers": 3}, {"workers": 5}, {"workers": 2, "scheduler": "tcp://there:1"}):
        with pytest.raises(sweep.SweepError, match="enough"):
            swept(trivial, options, seeds=[1, 2, 3, 4])
    assert asked == [(1, None), (3, None), (4, None), (2, "tcp://there:1")]


@pytest.mark.slow
def test_no_queue_on_a_worker(trivial, monkeypatch):
    """No run waits behind another while a worker is idle."""
    collect, most = sweep._collect, []

    def counting(*args):
        most.append(max(map(len, default_client().processing().values())))
        return collect(*args)

    monkeypatch.setattr(sweep, "_collect", counting)
    result, _ = swept(trivial, seeds=[1, 2, 3, 4, 5])
    assert not any(result.values()) and max(most) == 1


@pytest.mark.parametrize("failures", [2, 3])
def test_kernel_whose_start_fails(failures, trivial, monkeypatch):
    """It is started again, twice at most."""
    tries = []

    def colliding(*args, **kwargs):
        tries.append(1)
        if len(tries) <= failures:
            raise RuntimeError("Kernel didn't respond: address already in use")

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", colliding)
    error = _sweep_worker._execute("in.ipynb", "out.ipynb", {}, trivial, 60)
    told = "the kernel could not be started: Kernel didn't respond: address already in use"
    assert error == (told if failures == 3 else "") and len(tries) == 3


def test_run_that_could_not_begin(tmp_path):
    """A worker that does not take part hands nothing back but the reason; the other runs go on."""
    nothing = _sweep_worker._zipped(tmp_path / "no such folder")
    future = SimpleNamespace(result=lambda: ("the worker has another keras", nothing))
    assert sweep._collect(future, tmp_path, "run") == "the worker has another keras"
    assert not runs.is_complete(tmp_path / "run")


def test_two_sweeps_of_one_output(trivial, hold_lock):
    (trivial / "out").mkdir()
    hold_lock(trivial / "out" / ".sweep.lock")
    with pytest.raises(sweep.SweepError, match=r"another sweep is writing .*another --output"):
        swept(trivial, seeds=[0])


@pytest.mark.slow
def test_full_disk(trivial, monkeypatch):
    """What is finished is kept, and the error says what to do."""
    replace, moved = os.replace, []

    def full(source, target):
        if ".incoming-" in str(source):
            if moved:
                raise OSError(28, "No space left on device")
            moved.append(target)
        replace(source, target)

    monkeypatch.setattr(sweep.os, "replace", full)
    with pytest.raises(sweep.SweepError, match=r"No space left.*make room, then start the same command again"):
        swept(trivial, seeds=[0, 1, 2])
    assert [p.parent.name for p in (trivial / "out").glob("[!.]*/metrics.json")] == [moved[0].name]
    monkeypatch.setattr(sweep.os, "replace", replace)
    result, _ = swept(trivial, seeds=[0, 1, 2])
    assert set(result.values()) == {""} and not list((trivial / "out").glob(".incoming-*"))


# ---------------------------------------------------------------------------------------------- the command


def command(folder, *words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "fmnist_utils.sweep", *map(str, words)], cwd=folder, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,
    )  # fmt: skip


def wait_for_a_run(output, process):
    until = time.monotonic() + 600
    while not list(output.glob("[!.]*/metrics.json")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "no run is complete after ten minutes"
        time.sleep(0.05)


def test_command(trivial, odd_environment):
    """It ends with a table and tells of failure, under an 8-bit code page too."""
    path = sweep_file(trivial, grid={"what": ["write", "raise"]})
    real = command(trivial, path, "--output", "out", "--workers", "1", env=odd_environment)
    shown, wrong = real.communicate()
    assert real.returncode == 1 and "1 of 2 runs failed" in wrong, wrong
    assert "dashboard http://127.0.0.1:" in shown and "complete" in shown and "failed: cell [" in shown
    assert "ValueError: as asked \\u2013" in shown and "Traceback" not in wrong


def test_command_dry_run(trivial, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(trivial))
    sweep.main([str(sweep_file(trivial, grid={"what": ["write", "raise"]})), "--dry-run", "--output", "~/out"])
    shown = capsys.readouterr().out
    assert f"2 runs of trivial.ipynb, into {trivial / 'out'}\n" in shown and "what = raise" in shown
    assert not (trivial / "out").exists()


def test_command_of_odd_dask_settings(trivial):
    """Workers that cannot start are told in one line."""
    (trivial / "in_the_way").touch()
    environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(trivial / "in_the_way")}
    real = command(trivial, sweep_file(trivial), "--output", "out", "--workers", "1", env=environment)
    _, wrong = real.communicate()
    assert real.returncode == 1 and "no workers could be started on this machine: " in wrong, wrong
    assert "Traceback" not in wrong


def test_command_missing_file(trivial):
    with pytest.raises(SystemExit, match=r"cannot read the sweep file nowhere\.yaml"):
        sweep.main(["nowhere.yaml"])


@pytest.mark.slow
def test_command_interrupted(trivial):
    """Ctrl-C ends it cleanly, and the same command goes on."""
    marker = trivial / "marker"
    path = sweep_file(trivial, variants=[{"marker": str(marker)}], grid={"what": ["write", "wait for the marker"]})
    words = (path, "--output", "out", "--workers", "1")
    first = command(trivial, *words)
    wait_for_a_run(trivial / "out", first)
    os.killpg(first.pid, signal.SIGINT)
    _, wrong = first.communicate(timeout=600)
    assert first.returncode == 1 and "Stopped. Finished runs are kept" in wrong and "Traceback" not in wrong
    marker.touch()
    second = command(trivial, *words)
    shown, wrong = second.communicate()
    assert second.returncode == 0 and "1 of 2 runs are complete already" in shown, wrong


def test_command_interrupt_swallowed(trivial):
    """Ctrl-C ends even what swallows it."""
    stubborn = f"""
import signal
from fmnist_utils import sweep
def run_sweep(*args, **kwargs):
    print("running", flush=True)
    while True:
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
sweep.run_sweep, sweep.GRACE = run_sweep, 0.1
sweep.main([{str(sweep_file(trivial, seeds=[0]))!r}, "--output", "out"])
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    process = subprocess.Popen([sys.executable, "-c", stubborn], **pipes)
    assert "1 runs of trivial.ipynb" in process.stdout.readline()
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=60)
    assert process.returncode == 1 and "Stopped. Finished runs are kept" in wrong


# ---------------------------------------------------------------------------------------------- clusters


@contextmanager
def cluster(folder, workers):
    """A scheduler and workers in processes with folders of their own, as on other hosts; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with ExitStack() as stack:

        def begin(name, *words):
            (folder / name).mkdir()
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=folder / name, env={**os.environ, "TMPDIR": str(folder / name)},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(lambda: (process.kill(), process.wait()))
            return process

        here = ("--host", "127.0.0.1", "--no-dashboard")
        port = ("--port", address.rsplit(":", 1)[1])
        scheduler = begin("scheduler", "distributed.cli.dask_scheduler", *here, *port)
        for i in range(workers):
            begin(f"worker{i}", "distributed.cli.dask_worker", address, *here, "--nthreads", "1")
        with Client(address, timeout=60) as client:
            if workers:
                client.wait_for_workers(workers, timeout=60)
        yield address, scheduler


@pytest.fixture
def there(tmp_path):
    """The folder of a cluster's processes."""
    (tmp_path / "cluster").mkdir()
    return tmp_path / "cluster"


@pytest.mark.slow
def test_cluster(trivial, there):
    """Its workers share no folder with the sweep, and each run's folder comes back."""
    with cluster(there, 2) as (address, _):
        result, folders = swept(trivial, {"scheduler": address, "threads": 1}, seeds=[1, 2, 3, 4])
    assert set(result.values()) == {""}
    found = {seed: metrics(path)["val_accuracy"] for (_, seed), path in folders.items()}
    assert found == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}


@pytest.mark.slow
def test_cluster_lost_scheduler(trivial, there):
    """It is told, and the sweep started again goes on."""
    marker = trivial / "marker"
    path = sweep_file(trivial, variants=[{"marker": str(marker)}], grid={"what": ["write", "wait for the marker"]})
    environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"}
    with cluster(there, 1) as (address, scheduler):
        first = command(trivial, path, "--output", "out", "--scheduler", address, env=environment)
        wait_for_a_run(trivial / "out", first)
        scheduler.kill()
        _, wrong = first.communicate(timeout=120)
    assert first.returncode == 1 and "the scheduler was lost. Finished runs are kept" in wrong, wrong
    marker.touch()
    second = command(trivial, path, "--output", "out", "--workers", "1")
    shown, wrong = second.communicate()
    assert second.returncode == 0 and "1 of 2 runs are complete already" in shown, wrong


def test_cluster_without_worker(trivial, there):
    refused = pytest.raises(sweep.SweepError, match="has no worker")
    with cluster(there, 0) as (address, _), refused:
        swept(trivial, {"scheduler": address}, seeds=[0])


def test_cluster_no_scheduler(trivial):
    with pytest.raises(sweep.SweepError, match=r"no scheduler answers at not-an-address"):
        swept(trivial, {"scheduler": "not-an-address://x"}, seeds=[0])


@pytest.mark.parametrize(
    ("threads", "versions", "error"),
    [(2, {}, "takes 2 runs into one process. Start it with --nthreads 1"), (1, {"keras": "1.0"}, "has another keras")],
)
def test_worker_that_joins_unseen(threads, versions, error, trivial):
    """A run that it got before it was checked does not count as complete: the worker itself refuses."""
    versions = {**_sweep_worker.worker_info()["versions"], **versions}
    run = ((trivial / "trivial.ipynb").read_text(encoding="utf-8"), "trivial.ipynb", "name", {}, {}, 60, versions)
    one = LocalCluster(1, threads_per_worker=threads, processes=False, dashboard_address=None)
    with one as joined, Client(joined) as client:
        told, _ = client.submit(_sweep_worker.run_notebook, *run).result()
    assert error in told


class FakeClient:
    """A client whose one worker answers as the test wants."""

    def __init__(self, info, fetched="", nthreads=1):
        self.answers = {_sweep_worker.worker_info: info, _sweep_worker.fetch_data: fetched}
        self.threads = nthreads

    def nthreads(self):
        return {"tcp://there:1": self.threads}

    def run(self, function, on_error, workers=None):
        return {"tcp://there:1": self.answers[function]}


HERE = _sweep_worker.worker_info()
OTHER = {**HERE, "versions": {**HERE["versions"], "keras": "1.0"}}
NO_PACKAGE = ModuleNotFoundError("No module named 'fmnist_utils'")
REFUSED = [
    (FakeClient(OTHER), r"another keras \(1\.0 there, .* here\)"),
    (FakeClient(NO_PACKAGE), "has not this project: No module named 'fmnist_utils'"),
    (FakeClient(HERE, nthreads=2), r"takes 2 runs into one process\. Start it with --nthreads 1"),
]


@pytest.mark.parametrize(("client", "error"), [*REFUSED, (FakeClient(HERE, "no network"), "the data set: no network")])
def test_worker_unfit_at_the_start(client, error):
    with pytest.raises(sweep.SweepError, match=error):
        sweep.check_workers(client)


@pytest.mark.parametrize(("client", "error"), REFUSED)
def test_worker_unfit_that_joins(client, error, capsys):
    """It gets no run, which is told once; the others go on."""
    accepted = {"tcp://known:1": True}
    assert sweep._fitting_workers(client, accepted) == sweep._fitting_workers(client, accepted) == []
    assert capsys.readouterr().out.count("a worker that joined gets no run: ") == 1
    assert accepted == {"tcp://known:1": True, "tcp://there:1": False}


def test_worker_fit():
    client = FakeClient(HERE)
    assert sweep.check_workers(client) == {HERE["host"]: HERE["cores"]}
    assert sweep.check_workers(client, 3) == {HERE["host"]: 3}
    assert sweep._fitting_workers(client, {}) == ["tcp://there:1"]


def test_worker_without_data(monkeypatch):
    """It tells in one line why."""

    def unavailable():
        raise _download.DatasetUnavailable("no source:\n  - one\n  - two")

    monkeypatch.setattr(_download, "ensure_dataset", unavailable)
    assert _sweep_worker.fetch_data() == "no source: - one - two"
    monkeypatch.setattr(_download, "ensure_dataset", lambda: "the cache")
    assert _sweep_worker.fetch_data() == ""


@pytest.mark.slow
def test_cluster_same_networks(tmp_path, there, monkeypatch):
    """Bit for bit those of the local default, at the same thread count."""
    monkeypatch.chdir(runs.ROOT)
    small = {"train_size": 500, "epochs": 2, "filters": [4, 8], "convs_per_block": [1, 1]}
    content = {"notebook": "notebooks/03_training.ipynb", "variants": [small], "seeds": [0, 1, 2]}
    described = _sweep_file.read_sweep(sweep_file(tmp_path, **content))
    with cluster(there, 3) as (address, _):
        far = sweep.run_sweep(*described, tmp_path / "far", scheduler=address, threads=1)
    near = sweep.run_sweep(*described, tmp_path / "near", workers=2, threads=1)
    assert far == near == dict.fromkeys(described[2], "")
    for name in near:
        probability = [np.load(tmp_path / side / name / runs.VALIDATION)["probability"] for side in ("near", "far")]
        assert np.array_equal(*probability) and len(probability[0]) == 12_000
    assert len({Path(tmp_path / "near" / name / runs.VALIDATION).read_bytes() for name in near}) == 3, "seeds differ"


@pytest.mark.slow
def test_two_hundred_runs(trivial, monkeypatch):
    """None is lost, and the sweep's own process holds no run's files after it has written them."""
    memory, collect = [], sweep._collect

    def measuring(*args):
        memory.append(psutil.Process().memory_info().rss / 2**20)
        return collect(*args)

    monkeypatch.setattr(sweep, "_collect", measuring)
    result, folders = swept(trivial, seeds=list(range(200)))
    assert set(result.values()) == {""} and all((path / "metrics.json").is_file() for path in folders.values())
    assert len(memory) == 200
    assert np.median(memory[150:]) - np.median(memory[20:70]) < 10  # MB
