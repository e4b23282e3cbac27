"""Sweeps: many runs of one notebook, side by side, on this machine or on many.

python -m fmnist_utils.sweep sweeps/NAME.yaml [--workers N] [--scheduler tcp://HOST:PORT] [--output DIR] [--dry-run]

A sweep file has the keys notebook, base (a parameter file), variants (a list of changes to it), grid (name: list of
values), random (samples, seed, ranges) and seeds (a list); all but notebook may be left out, and its paths count from
the working directory. Every combination is one run. dask.distributed hands the runs out, papermill executes them, and
each run's folder comes back through the cluster, so the machines need no shared disk.
"""

import argparse
import ast
import hashlib
import io
import itertools
import json
import logging
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import threading
import zipfile
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import psutil
import yaml
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin, as_completed, get_worker
from distributed.system import MEMORY_LIMIT
from filelock import FileLock, Timeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from fmnist_utils import data, pipeline, runs
from fmnist_utils._tensorflow import thread_settings

KEYS = ("notebook", "base", "variants", "grid", "random", "seeds")
OWN = ("run_name", "runs_dir")  # the sweep names its runs itself
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "papermill", "nbclient", "dask", "distributed")
NOT_TRAINING = ("pipeline.py", "sweep.py", "plots.py", "comparison.py")  # a change there changes no run
STARTS = 3  # of a kernel whose start fails, as when two kernels draw the same port
GRACE = 15  # seconds from Ctrl-C until a cluster that does not close is killed
STOPPED = "\nStopped. Finished runs are kept; the same command goes on with the others."
LOST = "the scheduler was lost. Finished runs are kept: start the same command again."
GIB = 2**30


class SweepError(RuntimeError):
    """A sweep cannot start or go on; the message says what to do."""


# ---------------------------------------------------------------------------------------------- the description


def read_sweep(path):
    """Read a sweep file and check all of it; return (the notebook's Path, its shared parameters, the runs).

    The runs are a dict: name, a hash of the run's parameters and of the code that trains, to what sets the run apart.
    Raises ValueError, one line, for a file that is no YAML mapping, an unknown key or parameter, an empty or doubled
    list, a value that the notebook would refuse, and two runs that are the same.
    """
    content = _read_yaml(path)
    if unknown := sorted(map(str, content.keys() - set(KEYS))):
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}. There are: {', '.join(KEYS)}")
    notebook = Path(str(content.get("notebook")))
    if not notebook.is_file():
        raise ValueError(f"{path}: notebook = {content.get('notebook')!r}: there is no such file in {Path.cwd()}")
    defaults = _defaults(notebook)
    if not isinstance(content.get("base") or "", str):
        raise ValueError(f"{path}: base = {content['base']!r}: it must name a parameter file")
    base = pipeline.read_parameters(content["base"]) if content.get("base") else {}
    base = {name: value for name, value in base.items() if name in defaults and name not in OWN}
    code, named, told = code_hash(notebook), {}, {}
    for changes in _changes(path, content):
        _check_names(path, changes, defaults)
        whole = {**defaults, **base, **changes}
        try:
            whole |= runs.check_parameters(whole)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        text = json.dumps({n: v for n, v in whole.items() if n not in OWN}, sort_keys=True)
        name = hashlib.sha256((text + code).encode()).hexdigest()[:16]
        if name in named:
            raise ValueError(f"{path}: the same run twice, with {told[name]} and with {_shown(changes)}")
        named[name], told[name] = {n: whole[n] for n in changes}, _shown(changes)
    return notebook, base, named


def _read_yaml(path):
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the sweep file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the sweep file {path} must hold lines such as `notebook: notebooks/03_training.ipynb`")
    return content


def _defaults(notebook):
    """Return the notebook's declared parameters with their committed values, as papermill sees them."""
    return {name: ast.literal_eval(found["default"]) for name, found in papermill.inspect_notebook(notebook).items()}


def _check_names(path, changes, defaults):
    if owned := [name for name in OWN if name in changes]:
        raise ValueError(f"{path}: {', '.join(owned)} cannot be swept: each run is named after its parameters")
    if unknown := sorted(map(str, changes.keys() - defaults.keys())):
        known = ", ".join(sorted(defaults.keys() - set(OWN)))
        raise ValueError(f"{path}: the notebook has no parameter {', '.join(unknown)}. There are: {known}")


def _changes(path, content):
    """Yield what sets each run apart, a dict: seeds times variants times grid times random samples.

    Seeds come first: each setting has been seen once after a first round, and an hour in which the machine is slow
    falls on all settings alike.
    """
    grid = content.get("grid", {})
    if "grid" in content and not (isinstance(grid, dict) and grid):
        raise ValueError(f"{path}: grid = {grid!r}: it must hold lines such as `dropout: [0.0, 0.1]`")
    parts = [[{name: value} for value in _list(path, f"grid, {name}", values)] for name, values in grid.items()]
    if "variants" in content:
        variants = _list(path, "variants", content["variants"])
        if not all(isinstance(variant, dict) for variant in variants):
            raise ValueError(f"{path}: variants must be a list of mappings such as {{dropout: 0.1}}; {{}} is the base")
        parts.insert(0, variants)
    if "random" in content:
        parts.append(_samples(path, content["random"]))
    seeds = [{"seed": seed} for seed in _list(path, "seeds", content["seeds"])] if "seeds" in content else [{}]
    for seed, *others in itertools.product(seeds, *parts):
        combination = (*others, seed)
        names = [name for part in combination for name in part]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"{path}: {', '.join(twice)} stands in two of variants, grid, random and seeds")
        yield {name: value for part in combination for name, value in part.items()}


def _list(path, what, values):
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: {what} = {values!r}: allowed is a list with at least one value")
    return values


def _samples(path, random):
    """Return samples drawn from ranges, a list of dicts; whole limits give whole numbers."""
    try:
        count, ranges = random["samples"], random["ranges"]
        generator, samples = np.random.default_rng(random.get("seed", 0)), []
        for _ in range(count):
            sample = {}
            for name, limits in ranges.items():
                low, high = limits["low"], limits["high"]
                if low >= high or (limits.get("log") and low <= 0):
                    raise ValueError("low must be less than high, and more than 0 on a log scale")
                whole, log = isinstance(low, int) and isinstance(high, int), limits.get("log")
                low, high = (low - 0.5, high + 0.5) if whole else (low, high)  # each whole number its share
                value = generator.uniform(*(np.log([low, high]) if log else (low, high)))
                value = float(np.exp(value) if log else value)
                sample[name] = round(value) if whole else value
            samples.append(sample)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        form = "{samples: 8, seed: 0, ranges: {learning_rate: {low: 0.001, high: 0.02, log: true}}}"
        raise ValueError(f"{path}: random = {random!r} ({error!r}): allowed is, for example, {form}") from error
    return _list(path, "random, samples", samples)


def code_hash(notebook):
    """Return a hash of what a run computes with: the notebook's code cells and the package's training modules."""
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(cells).encode() + _package_hash(NOT_TRAINING).encode()).hexdigest()


def _package_hash(without=()):
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(f.read_bytes() for f in files if f.name not in without)).hexdigest()


def _shown(changes):
    return ", ".join(f"{name} = {value}" for name, value in changes.items()) or "the base as it is"


# ---------------------------------------------------------------------------------------------- on a worker


class IgnoreInterrupt(WorkerPlugin):
    """Leave Ctrl-C, which a terminal sends to every process, to the command, which then closes the workers."""

    def setup(self, worker):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_notebook(source, notebook, name, parameters, threads, cell_seconds):
    """Execute one run in a temporary folder; return what went wrong, "" if nothing, and the zipped run folder.

    source: the notebook as JSON text; notebook: its file name. threads: of TensorFlow. cell_seconds: the longest that
    a cell may take. The executed notebook is in the zip, with the error of a run that failed.
    """
    try:
        scratch = get_worker().local_directory
    except ValueError:  # called without a cluster
        scratch = None
    os.environ |= thread_settings(threads.get(socket.gethostname(), 1))
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # workers share a graphics card
    with tempfile.TemporaryDirectory(dir=scratch) as home:
        folder = Path(home) / name
        executed = folder / "notebooks" / notebook
        executed.parent.mkdir(parents=True)
        (Path(home) / notebook).write_text(source)
        values = {**parameters, "run_name": name, "runs_dir": home}
        wrong = _execute(Path(home) / notebook, executed, values, cell_seconds)
        if not wrong and not runs.is_complete(folder):
            wrong = f"the notebook ran to its end but wrote no {runs.METRICS}"
        return wrong, _zipped(folder)


def _execute(source, executed, values, cell_seconds):
    for start in range(1, STARTS + 1):
        try:
            papermill.execute_notebook(
                source, executed, values, cwd=source.parent, progress_bar=False,
                execution_timeout=cell_seconds, extra_arguments=pipeline.QUIET_KERNEL, shutdown_kernel="immediate",
            )  # fmt: skip
            return ""
        except PapermillExecutionError as error:
            return " ".join(f"cell [{error.exec_count}]: {error.ename}: {error.evalue}".split())
        except CellTimeoutError:
            return f"a cell took more than {cell_seconds} s (--cell-seconds) and was stopped"
        except DeadKernelError:
            return "the notebook's kernel died (killed from outside, or for want of memory)"
        except OSError as error:
            return f"the worker could not write or read a file: {error}"
        except RuntimeError as error:  # no kernel came up: another may hold its port
            if start == STARTS:
                return f"the kernel could not be started: {error}"


def _zipped(folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                archive.write(path, inside)
    return file.getvalue()


def inventory():
    """Return what runs on a worker depend on: its host, cores, and the versions that must be the same everywhere."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"host": socket.gethostname(), "cores": CPU_COUNT, "versions": {**versions, "package": _package_hash()}}


def fetch_data():
    """Fetch the data set on a worker, if it is not there; return what went wrong, "" if nothing."""
    try:
        data.ensure_dataset()
    except data.DatasetUnavailable as error:
        return " ".join(str(error).split())
    return ""


# ---------------------------------------------------------------------------------------------- the sweep


def check_workers(client, threads=None):
    """Check every worker of a cluster; return {host: TensorFlow's threads a run}, its cores shared out.

    threads: of every run, instead of that. Raises SweepError when there is no worker, or one has more than one
    thread, no package, another version of something, or cannot get the data set.
    """
    slots = client.nthreads()
    if not slots:
        raise SweepError("the cluster has no worker. Start some: dask worker tcp://HOST:8786 --nthreads 1")
    if wide := [address for address, count in slots.items() if count > 1]:
        raise SweepError(f"{wide[0]} takes {slots[wide[0]]} runs into one process. Start it with --nthreads 1")
    here, found = inventory(), client.run(inventory, on_error="return")
    for address, there in found.items():
        if isinstance(there, Exception):
            raise SweepError(f"the worker {address} has not this project: {there}. Install it there: pip install -e .")
        for name, wanted in here["versions"].items():
            if there["versions"][name] != wanted:
                both = f"{there['versions'][name][:12]} there, {wanted[:12]} here"
                raise SweepError(f"the worker {address} has another {name} ({both}). Install the same there.")
    one_a_host = list({there["host"]: address for address, there in found.items()}.values())
    for address, wrong in client.run(fetch_data, workers=one_a_host, on_error="return").items():
        if wrong:
            raise SweepError(f"the worker {address} cannot get the data set: {wrong}")
    hosts = [there["host"] for there in found.values()]
    return {there["host"]: threads or max(1, there["cores"] // hosts.count(there["host"])) for there in found.values()}


def default_workers():
    """Return how many runs fit on this machine side by side: one a core, and 2 GiB of memory for each."""
    return max(1, min(CPU_COUNT, MEMORY_LIMIT // (2 * GIB)))


def run_sweep(notebook, base, named, output, workers=None, scheduler=None, threads=None, cell_seconds=3600):
    """Execute the runs that are not complete in the folder `output`; return {name: what went wrong}, "" if nothing.

    notebook, base, named: from `read_sweep`. workers: of the local cluster; scheduler: the address of another
    cluster instead. A finished run is in `output` before the next is counted. Raises SweepError.
    """
    output = Path(output)
    with _held(output):
        result = {name: "" for name in named if runs.is_complete(output / name)}
        left = [name for name in named if name not in result]
        if result:
            print(f"{len(result)} of {len(named)} runs are complete already")
        if not left:
            return result
        workers = min(workers or default_workers(), len(named))
        if not scheduler:  # by the sweep, not by what is left of it: the last run, too, computes as it would have
            threads = threads or max(1, CPU_COUNT // workers)
        with _cluster(min(workers, len(left)), scheduler) as client:
            threads = check_workers(client, threads)
            print(f"{len(client.nthreads())} workers, dashboard {client.dashboard_link or 'none'}", flush=True)
            source = nbformat.writes(nbformat.read(notebook, as_version=4))
            finished, futures = as_completed(), {}

            def hand_out():  # one run a worker: dask would queue a second behind a first while another worker is idle
                while left and len(futures) < _slots(client):
                    name = left.pop(0)
                    future = client.submit(
                        run_notebook, source, notebook.name, name, {**base, **named[name]}, threads, cell_seconds,
                        key=name, pure=False,
                    )  # fmt: skip
                    futures[future] = name
                    finished.add(future)

            hand_out()
            with tqdm(total=len(named), initial=len(result), unit="run", desc="runs") as bar:
                for future in finished:
                    name = futures.pop(future)
                    result[name] = _collect(future, output, name)
                    future.release()
                    hand_out()
                    if result[name]:
                        tqdm.write(f"{name} ({_shown(named[name])}) failed: {result[name]}")
                    bar.update()
        return result


@contextmanager
def _held(output):
    """Hold the output folder against a second sweep, and clear what an interrupted one left half unpacked."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".sweep.lock", timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise SweepError(f"another sweep is writing {output} now. Wait for it, or choose another --output.") from error
    except OSError as error:
        raise SweepError(f"cannot write {output}: {error}. Choose another --output, or make room.") from error
    try:
        for half in output.glob(".incoming-*"):
            shutil.rmtree(half, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def _cluster(workers, scheduler):
    if scheduler:
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise SweepError(f"no scheduler answers at {scheduler}: {error}. Start one: dask scheduler") from error
        with client:
            yield client
    else:
        own = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
        with (
            LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", **own) as cluster,
            Client(cluster) as client,
        ):
            client.register_plugin(IgnoreInterrupt())
            yield client


def _slots(client):
    """Return how many runs the cluster takes now; 1 while its only worker is started again."""
    try:
        return max(1, len(client.nthreads()))
    except OSError as error:
        raise SweepError(LOST) from error


def _collect(future, output, name):
    """Move one run's folder to its place in one step; return what went wrong in the run, "" if nothing."""
    try:
        wrong, zipped = future.result()
    except CancelledError as error:
        raise SweepError(LOST) from error
    except Exception as error:  # the engine's own, such as KilledWorker
        return " ".join(f"{type(error).__name__}: {error}".split())
    incoming = output / f".incoming-{name}"
    try:
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            archive.extractall(incoming)
        shutil.rmtree(output / name, ignore_errors=True)  # a failed attempt's
        os.replace(incoming, output / name)
    except OSError as error:
        shutil.rmtree(incoming, ignore_errors=True)
        raise SweepError(
            f"cannot write the run {name} into {output}: {error}. Finished runs are kept: make room, then start the "
            "same command again."
        ) from error
    return wrong


# ---------------------------------------------------------------------------------------------- the command


def estimate(base, named, defaults, workers):
    """Return the seconds that the runs' training may take with so many workers, None for a notebook without epochs.

    The seconds of the reference run, scaled by images, epochs and multiply-adds.
    """
    if not {"epochs", "filters", "convs_per_block"} <= defaults.keys():
        return None
    reference = runs.Run(runs.REFERENCE, yaml.safe_load((runs.REFERENCE / runs.PARAMS).read_text()))
    seconds = runs.read_metrics(reference)["train_seconds"] / _work(reference.params)
    return seconds * sum(_work({**defaults, **base, **changes}) for changes in named.values()) / min(workers, 2)


def _work(params):
    side, channels, multiply_adds = 28, 1, 0
    for filters, convs in zip(params["filters"], params["convs_per_block"], strict=True):
        for number in range(convs):
            multiply_adds += side**2 * channels * filters * params["kernel_size"] ** 2
            channels = filters
            side = (side + 1) // 2 if number == 0 else side  # a block pools right after its first convolution
    images = params["train_size"] or 60_000 * (1 - params["validation_fraction"])
    return multiply_adds * images * params["epochs"]


def table(output, named, result):
    """Return a frame, a row a run: its name, what sets it apart, what it reached, and what went wrong."""
    rows = []
    for name, changes in named.items():
        metrics = runs.read_metrics(runs.Run(output / name, {})) if runs.is_complete(output / name) else {}
        reached = {key: metrics[key] for key in ("val_accuracy", "train_seconds") if key in metrics}
        state = "complete" if not result.get(name, "not run") else "failed: " + result[name][:60]
        rows.append({"run": name, **{n: str(v) for n, v in changes.items()}, **reached, "state": state})
    return pd.DataFrame(rows).fillna("")


def _interrupt(signum, frame):
    """End by KeyboardInterrupt, which closes the cluster; where that is swallowed or hangs, at once after GRACE."""
    watch = threading.Timer(GRACE, _end_at_once)
    watch.daemon = True
    watch.start()
    raise KeyboardInterrupt


def _end_at_once():
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(1)


def main(words=None):
    """Parse the command line, check, run, and print a table; exit 1 when a run failed or nothing could start."""
    parser = argparse.ArgumentParser(prog="python -m fmnist_utils.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("sweep", help="a file such as sweeps/seeds.yaml")
    parser.add_argument("--workers", type=int, help="runs side by side on this machine (default: one a core)")
    parser.add_argument("--scheduler", help="a dask scheduler, tcp://HOST:PORT, instead of this machine alone")
    parser.add_argument("--threads", type=int, help="TensorFlow's threads a run (default: each host's cores, shared)")
    parser.add_argument("--output", help="folder for the run folders (default: runs/NAME in the project)")
    parser.add_argument("--cell-seconds", type=int, default=3600, help="a cell's longest time (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="check the sweep and list its runs, no more")
    arguments = parser.parse_args(words)
    signal.signal(signal.SIGINT, _interrupt)
    for option in ("workers", "threads", "cell_seconds"):
        if (given := getattr(arguments, option)) is not None and given < 1:
            parser.error(f"--{option.replace('_', '-')} {given}: allowed is 1 or more")
    output = Path(arguments.output) if arguments.output else runs.runs_folder() / Path(arguments.sweep).stem
    try:
        notebook, base, named = read_sweep(arguments.sweep)
        seconds = estimate(base, named, _defaults(notebook), arguments.workers or default_workers())
        rough = f", roughly {seconds / 60:.0f} min of training by the reference run's speed" if seconds else ""
        print(f"{len(named)} runs of {notebook}{rough}, into {output}")
        if arguments.dry_run:
            print(*(f"  {name}  {_shown(changes)}" for name, changes in named.items()), sep="\n")
            return
        options = {name: getattr(arguments, name) for name in ("workers", "scheduler", "threads", "cell_seconds")}
        result = run_sweep(notebook, base, named, output, **options)
    except (ValueError, SweepError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    print(table(output, named, result).to_string(index=False))
    if failed := [name for name in result if result[name]]:
        sys.exit(f"\n{len(failed)} of {len(named)} runs failed; what they left, with the error, is in {output}.")


if __name__ == "__main__":
    from fmnist_utils import sweep  # under its own name, by which workers find its functions

    sweep.main()
