"""Sweeps: what is wrong is said before anything starts, nothing finished is lost, and nothing is done twice.

Most tests use a notebook that trains nothing, so that a run takes about a second.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import nbformat
import numpy as np
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster, default_client

from fmnist_utils import pipeline, runs, sweep

CELL = """
import json, os, pathlib, signal, time
folder = pathlib.Path(runs_dir) / run_name
folder.mkdir(parents=True, exist_ok=True)
once = pathlib.Path(marker)
if what == "raise":
    raise ValueError("as asked")
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "hang":
    time.sleep(600)
if what == "kill the worker once" and not once.exists():
    once.touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
if what == "wait for the marker":
    while not once.exists():
        time.sleep(0.05)
if what != "write nothing":
    text = json.dumps({"val_accuracy": seed / 10, "train_seconds": 1.0, "pid": os.getpid()})
    (folder / "metrics.json").write_text(text)
"""


@pytest.fixture
def trivial(tmp_path, monkeypatch):
    """A folder with a notebook that trains nothing; the working directory is there."""
    head = nbformat.v4.new_code_cell(
        'run_name: str = "x"  # name\nruns_dir: str = "runs"  # folder\nseed: int = 0  # number\n'
        'what: str = "write"  # to do\nmarker: str = "marker"  # file\ndropout: float = 0.1  # share',
        metadata={"tags": ["parameters"]},
    )
    notebook = nbformat.v4.new_notebook(cells=[head, nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "trivial.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def described(folder, **content):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"notebook": "trivial.ipynb", **content}))
    return path


def swept(folder, options=None, **content):
    """Run a sweep; return {(what, seed): what went wrong} and the output folder."""
    notebook, base, named = _sweep_file.read_sweep(described(folder, **content))
    result = sweep.run_sweep(notebook, base, named, folder / "out", **{"workers": 2, **(options or {})})
    told = {(changes.get("what", "write"), changes.get("seed", 0)): name for name, changes in named.items()}
    return {key: result[name] for key, name in told.items()}, {k: folder / "out" / n for k, n in told.items()}


# ---------------------------------------------------------------------------------------------- the description


def test_a_sweep_is_every_combination_of_its_parts(trivial):
    path = described(
        trivial,
        variants=[{}, {"what": "raise"}],
        random={"samples": 2, "seed": 3, "ranges": {"dropout": {"low": 0.01, "high": 0.5, "log": True}}},
        seeds=[0, 1, 2],
    )
    _, _, named = _sweep_file.read_sweep(path)
    assert len(named) == 12
    assert {changes["seed"] for changes in named.values()} == {0, 1, 2}
    drawn = {changes["dropout"] for changes in named.values()}
    assert len(drawn) == 2 and all(0.01 <= value <= 0.5 for value in drawn)
    assert [changes["seed"] for changes in named.values()] == [0] * 4 + [1] * 4 + [2] * 4  # a round of all, each seed
    assert named == _sweep_file.read_sweep(path)[2]


def test_whole_limits_give_whole_numbers_of_the_whole_range():
    (low, high) = (1, 4)
    ranges = {"samples": 200, "ranges": {"epochs": {"low": low, "high": high}}}
    drawn = {sample["epochs"] for sample in _sweep_file._samples("file", ranges)}
    assert drawn == {1, 2, 3, 4} and all(type(value) is int for value in drawn)
    many = [s["epochs"] for s in _sweep_file._samples("file", {**ranges, "samples": 4000})]
    assert np.bincount(many)[1:] == pytest.approx([1000] * 4, abs=120)  # 1 and 4 as often as 2 and 3


def test_a_log_scale_gives_each_power_of_ten_its_share():
    ranges = {"samples": 2000, "ranges": {"learning_rate": {"low": 0.0001, "high": 0.1, "log": True}}}
    drawn = [sample["learning_rate"] for sample in _sweep_file._samples("file", ranges)]
    assert np.histogram(drawn, [1e-4, 1e-3, 1e-2, 1e-1])[0] == pytest.approx([667, 667, 667], abs=75)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grids": {}}, "unknown key grids. There are: notebook, base"),
        ({"notebook": "nowhere.ipynb"}, "notebook = 'nowhere.ipynb': there is no such file"),
        ({"grid": {"rate": [1]}}, "has no parameter rate. There are: dropout, marker, seed, what"),
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
def test_a_bad_description_is_refused_in_one_line(trivial, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        _sweep_file.read_sweep(described(trivial, **content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["grid: [5", "- 5", "notebook: !!python/object/apply:os.getcwd []"])
def test_what_is_no_yaml_mapping_is_refused_in_one_line(trivial, text):
    (trivial / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml") as caught:
        _sweep_file.read_sweep("bad.yaml")
    assert "\n" not in str(caught.value)


def test_the_shipped_sweeps_are_valid_and_ablation_takes_away_each_component(monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    read = {path.stem: _sweep_file.read_sweep(path) for path in sorted((runs.ROOT / "sweeps").glob("*.yaml"))}
    assert set(read) >= {"learning_rate", "ablation", "seeds"}
    _, base, named = read["ablation"]
    seeds_of = {}
    for changes in named.values():
        seeds_of.setdefault(frozenset(changes) - {"seed"}, set()).add(changes["seed"])
    for name in ("batch_norm", "dropout", "pooling_head", "dense_units", "augment", "schedule", "early_stopping"):
        assert seeds_of[frozenset([name])] == seeds_of[frozenset()] >= {0, 1, 2, 3}, name
    shared = pipeline.read_parameters("params/quick.yaml")
    assert base == {name: value for name, value in shared.items() if name != "run_name"}  # no variant leaks into it


def test_a_name_changes_with_parameters_and_training_code_and_with_nothing_else(trivial):
    before = set(_sweep_file.read_sweep(described(trivial, seeds=[0]))[2])
    assert set(_sweep_file.read_sweep(described(trivial, seeds=[1]))[2]) != before
    notebook = nbformat.read("trivial.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("prose"))
    nbformat.write(notebook, "trivial.ipynb")
    assert set(_sweep_file.read_sweep(described(trivial, seeds=[0]))[2]) == before
    notebook.cells[1].source += "\n"
    notebook.cells[1].source += "x = 1"
    nbformat.write(notebook, "trivial.ipynb")
    assert set(_sweep_file.read_sweep(described(trivial, seeds=[0]))[2]) != before


# ---------------------------------------------------------------------------------------------- runs and faults


def test_each_failure_is_told_the_others_go_on_and_what_is_complete_stays(trivial):
    parts = {"grid": {"what": ["write", "raise", "die", "write nothing", "kill the worker once"]}, "seeds": [1]}
    parts["variants"] = [{"marker": str(trivial / "marker")}]
    result, folders = swept(trivial, **parts)
    assert result[("write", 1)] == "" and result[("kill the worker once", 1)] == ""
    assert "ValueError: as asked" in result[("raise", 1)]
    assert "kernel died" in result[("die", 1)]
    assert "wrote no metrics.json" in result[("write nothing", 1)]
    kept = nbformat.read(folders[("raise", 1)] / "notebooks" / "trivial.ipynb", as_version=4)
    assert any(out.output_type == "error" for cell in kept.cells if cell.cell_type == "code" for out in cell.outputs)
    first = (folders[("write", 1)] / "metrics.json").read_text()

    again, _ = swept(trivial, **parts)
    assert again == result
    assert (folders[("write", 1)] / "metrics.json").read_text() == first  # the process in it is another otherwise


def test_a_cell_that_hangs_is_stopped(trivial):
    result, _ = swept(trivial, {"cell_seconds": 6}, grid={"what": ["hang", "write"]})
    assert "more than 6 s" in result[("hang", 0)] and result[("write", 0)] == ""


def test_the_threads_of_a_run_do_not_depend_on_how_many_runs_are_left(trivial, monkeypatch):
    monkeypatch.setattr(sweep, "CPU_COUNT", 8)
    asked, check = [], sweep.check_workers
    monkeypatch.setattr(sweep, "check_workers", lambda client, threads: asked.append(threads) or check(client, threads))
    swept(trivial, {"workers": 2}, seeds=[1])
    swept(trivial, {"workers": 2}, seeds=[1, 2])  # one of two is left
    swept(trivial, {"workers": 2}, seeds=[3, 4])
    assert asked == [8, 4, 4]


def test_no_run_queues_behind_another_on_a_worker(trivial, monkeypatch):
    collect, most = sweep._collect, []

    def counting(*args):
        most.append(max(map(len, default_client().processing().values())))
        return collect(*args)

    monkeypatch.setattr(sweep, "_collect", counting)
    result, _ = swept(trivial, seeds=[1, 2, 3, 4, 5])
    assert not any(result.values()) and max(most) == 1


def test_a_kernel_whose_start_fails_is_started_again(trivial, monkeypatch):
    execute, tries = pipeline.papermill.execute_notebook, []

    def colliding(*args, **kwargs):
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("Kernel didn't respond: address already in use")
        return execute(*args, **kwargs)

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", colliding)
    source = (trivial / "trivial.ipynb").read_text()
    wrong, _ = _sweep_worker.run_notebook(source, "trivial.ipynb", "name", {}, {}, 60)
    assert wrong == "" and len(tries) == 3
    monkeypatch.setattr(sweep, "STARTS", 1)
    tries.clear()
    wrong, _ = _sweep_worker.run_notebook(source, "trivial.ipynb", "name", {}, {}, 60)
    assert "could not be started" in wrong and "address already in use" in wrong


def test_two_sweeps_cannot_write_one_output(trivial):
    with sweep._lock_output(trivial / "out"):
        second = f"""
from pathlib import Path
from fmnist_utils import sweep
try:
    with sweep._lock_output(Path({str(trivial / "out")!r})):
        print("held twice")
except sweep.SweepError as error:
    print(error)
"""
        shown = subprocess.run([sys.executable, "-c", second], capture_output=True, text=True).stdout
    assert "another sweep is writing" in shown and "another --output" in shown


def test_a_full_disk_keeps_what_is_finished_and_says_what_to_do(trivial, monkeypatch):
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
    monkeypatch.undo()
    os.chdir(trivial)
    result, _ = swept(trivial, seeds=[0, 1, 2])
    assert set(result.values()) == {""} and not list((trivial / "out").glob(".incoming-*"))


def test_a_really_full_file_system(trivial):
    """On a file system of 64 KiB, where mounting one is allowed."""
    small = trivial / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        notebook, base, named = _sweep_file.read_sweep(described(trivial, seeds=list(range(12))))
        with pytest.raises(sweep.SweepError, match="No space left"):
            sweep.run_sweep(notebook, base, named, small, workers=1)
        finished = [p for p in small.glob("[!.]*/metrics.json")]
        assert finished and all(json.loads(path.read_text())["train_seconds"] == 1.0 for path in finished)
        assert not list(small.glob(".incoming-*"))
    finally:
        subprocess.run(["umount", small], check=True)


def command(folder, *words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "fmnist_utils.sweep", *map(str, words)], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,
    )  # fmt: skip


def wait_for_a_run(output, process):
    until = time.monotonic() + 120
    while not list(output.glob("[!.]*/metrics.json")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "no run is complete after two minutes"
        time.sleep(0.05)


def test_the_command_lists_runs_ends_with_a_table_and_tells_of_failure(trivial):
    path = described(trivial, grid={"what": ["write", "raise"]})
    dry = command(trivial, path, "--dry-run", "--output", "out")
    shown, wrong = dry.communicate()
    assert dry.returncode == 0 and "2 runs of trivial.ipynb" in shown and "what = raise" in shown, wrong
    assert not (trivial / "out").exists()

    real = command(trivial, path, "--output", "out", "--workers", "1")
    shown, wrong = real.communicate()
    assert real.returncode == 1 and "1 of 2 runs failed" in wrong
    assert "dashboard http://127.0.0.1:" in shown and "complete" in shown and "failed: cell [" in shown
    assert "Traceback" not in wrong

    bad = command(trivial, "nowhere.yaml")
    shown, wrong = bad.communicate()
    assert bad.returncode == 1 and "cannot read the sweep file nowhere.yaml" in wrong and "Traceback" not in wrong


def test_ctrl_c_ends_it_cleanly_and_the_same_command_goes_on(trivial):
    marker = trivial / "marker"
    path = described(trivial, variants=[{"marker": str(marker)}], grid={"what": ["write", "wait for the marker"]})
    words = (path, "--output", "out", "--workers", "1")
    first = command(trivial, *words)
    wait_for_a_run(trivial / "out", first)
    os.killpg(first.pid, signal.SIGINT)
    _, wrong = first.communicate(timeout=60)
    assert first.returncode == 1 and "Stopped. Finished runs are kept" in wrong and "Traceback" not in wrong
    marker.touch()
    second = command(trivial, *words)
    shown, wrong = second.communicate()
    assert second.returncode == 0 and "1 of 2 runs are complete already" in shown, wrong


def test_ctrl_c_ends_even_what_swallows_it(trivial):
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
sweep.main([{str(described(trivial, seeds=[0]))!r}, "--output", "out"])
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", stubborn], **pipes)
    assert "1 runs of trivial.ipynb" in process.stdout.readline()
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=60)
    assert process.returncode == 1 and "Stopped. Finished runs are kept" in wrong


# ---------------------------------------------------------------------------------------------- clusters


@contextmanager
def cluster(folder, workers, worker_options=("--nthreads", "1")):
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
            begin(f"worker{i}", "distributed.cli.dask_worker", address, *here, *worker_options)
        with Client(address, timeout=60) as client:
            if workers:
                client.wait_for_workers(workers, timeout=60)
        yield address, scheduler


def test_a_cluster_of_separate_processes_gives_the_same_runs(trivial):
    there = trivial / "cluster"
    there.mkdir()
    with cluster(there, 3) as (address, _):
        result, folders = swept(trivial, {"scheduler": address, "threads": 1}, seeds=[1, 2, 3, 4])
    assert set(result.values()) == {""}
    values = {
        seed: json.loads((path / "metrics.json").read_text())["val_accuracy"] for (_, seed), path in folders.items()
    }
    assert values == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    shutil.rmtree(trivial / "out")
    _, local = swept(trivial, {"threads": 1}, seeds=[1, 2, 3, 4])
    assert local == folders
    assert values[3] == json.loads((local[("write", 3)] / "metrics.json").read_text())["val_accuracy"]


def test_a_lost_scheduler_is_told_and_the_sweep_started_again_goes_on(trivial):
    there, marker = trivial / "cluster", trivial / "marker"
    there.mkdir()
    path = described(trivial, variants=[{"marker": str(marker)}], grid={"what": ["write", "wait for the marker"]})
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


def test_a_cluster_without_a_worker_is_refused(trivial):
    there = trivial / "cluster"
    there.mkdir()
    refused = pytest.raises(sweep.SweepError, match="has no worker")
    with cluster(there, 0) as (address, _), refused:
        swept(trivial, {"scheduler": address}, seeds=[0])


def test_a_worker_that_takes_two_runs_at_once_is_refused():
    one_process = LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address=None)
    refused = pytest.raises(sweep.SweepError, match=r"takes 2 runs into one process\. Start it with --nthreads 1")
    with one_process as wide, Client(wide) as client, refused:
        sweep.check_workers(client)


def test_a_scheduler_that_does_not_answer_is_named(trivial):
    with pytest.raises(sweep.SweepError, match=r"no scheduler answers at not-an-address"):
        swept(trivial, {"scheduler": "not-an-address://x"}, seeds=[0])


def test_a_worker_tells_in_one_line_why_it_has_no_data(monkeypatch):
    def unavailable():
        raise sweep.data.DatasetUnavailable("no source:\n  - one\n  - two")

    monkeypatch.setattr(sweep.data, "ensure_dataset", unavailable)
    assert _sweep_worker.fetch_data() == "no source: - one - two"
    monkeypatch.setattr(sweep.data, "ensure_dataset", lambda: "the cache")
    assert _sweep_worker.fetch_data() == ""


class OneWorker:
    """A client whose one worker answers as the test wants."""

    def __init__(self, inventory, fetched=""):
        self.answers = {_sweep_worker.worker_info: inventory, _sweep_worker.fetch_data: fetched}

    def nthreads(self):
        return {"tcp://there:1": 1}

    def run(self, function, on_error, workers=None):
        return {"tcp://there:1": self.answers[function]}


def test_a_worker_with_another_version_without_package_or_without_data_is_refused():
    here = _sweep_worker.worker_info()
    other = {**here, "versions": {**here["versions"], "keras": "1.0"}}
    with pytest.raises(sweep.SweepError, match=r"another keras \(1\.0 there, .* here\)"):
        sweep.check_workers(OneWorker(other))
    with pytest.raises(sweep.SweepError, match="has not this project: No module named 'fmnist_utils'"):
        sweep.check_workers(OneWorker(ModuleNotFoundError("No module named 'fmnist_utils'")))
    with pytest.raises(sweep.SweepError, match="cannot get the data set: no network"):
        sweep.check_workers(OneWorker(here, "no network"))
    assert sweep.check_workers(OneWorker(here)) == {here["host"]: here["cores"]}
    assert sweep.check_workers(OneWorker(here), 3) == {here["host"]: 3}


@pytest.mark.slow
def test_a_cluster_trains_the_same_networks_as_the_local_default(tmp_path, monkeypatch):
    """Bit for bit, at the same thread count, though its workers share no folder with the sweep."""
    monkeypatch.chdir(runs.ROOT)
    small = {"train_size": 500, "epochs": 2, "filters": [4, 8], "convs_per_block": [1, 1]}
    content = {"notebook": "notebooks/03_training.ipynb", "variants": [small], "seeds": [0, 1, 2]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    described_runs = _sweep_file.read_sweep(tmp_path / "sweep.yaml")
    with cluster(tmp_path, 3) as (address, _):
        there = sweep.run_sweep(*described_runs, tmp_path / "there", scheduler=address, threads=1)
    here = sweep.run_sweep(*described_runs, tmp_path / "here", workers=2, threads=1)
    assert there == here == dict.fromkeys(described_runs[2], "")
    for name in here:
        probability = [np.load(tmp_path / side / name / runs.VALIDATION)["probability"] for side in ("here", "there")]
        assert np.array_equal(*probability) and len(probability[0]) == 12_000
    assert len({(tmp_path / "here" / name / runs.VALIDATION).read_bytes() for name in here}) == 3, "seeds differ"


@pytest.mark.slow
def test_two_hundred_runs_none_lost_and_memory_flat(trivial, monkeypatch):
    """The sweep's own process holds no run's files after it has written them."""
    memory, collect = [], sweep._collect

    def measuring(*args):
        memory.append(psutil.Process().memory_info().rss / 2**20)
        return collect(*args)

    monkeypatch.setattr(sweep, "_collect", measuring)
    result, folders = swept(trivial, seeds=list(range(200)))
    assert set(result.values()) == {""} and all((path / "metrics.json").is_file() for path in folders.values())
    assert len(memory) == 200
    assert np.median(memory[150:]) - np.median(memory[20:70]) < 10  # MB
