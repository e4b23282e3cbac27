"""Sweeps: many runs of one notebook, side by side, on this machine or on many.

python -m fmnist_utils.sweep sweeps/NAME.yaml [--workers N] [--scheduler tcp://HOST:PORT] [--output DIR] [--dry-run]

A sweep file has the keys notebook, base (a parameter file), variants (a list of changes to it), grid (name: list of
values), random (samples, seed, ranges) and seeds (a list); all but notebook may be left out, and its paths count from
the working directory. Every combination is one run. dask.distributed hands the runs out, papermill executes them, and
each run's folder comes back through the cluster, so the machines need no shared disk.
"""

import argparse
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
import zipfile
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import dask
import nbformat
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, WorkerPlugin, as_completed, get_worker
from distributed.system import MEMORY_LIMIT
from filelock import FileLock, Timeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from scipy.stats import loguniform, uniform
from sklearn.model_selection import ParameterGrid, ParameterSampler
from tqdm import tqdm

from fmnist_utils import pipeline, runs
from fmnist_utils._environment import all_files, code_hash, thread_settings
from fmnist_utils.parameters import PARAMETERS, check_parameters

KEYS = {"notebook", "base", "variants", "grid", "random", "seeds"}
RESERVED = {"run_name", "runs_dir"}  # the sweep names its runs itself
RANDOM_FORM = "{samples: 8, seed: 0, ranges: {learning_rate: {low: 0.001, high: 0.02, log: true}}}"
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "papermill", "nbclient", "dask", "distributed")
RETRIES = 2  # of a run whose kernel did not come up, as when two kernels draw the same port
REACHED = ("val_accuracy", "train_seconds")  # what the table shows of a run
LOST = "the scheduler was lost. Finished runs are kept: start the same command again."


# ------------------------------------------------------------------------------------------------------ the sweep file


def read_sweep(path) -> tuple[Path, dict, dict]:
    """Read a sweep file and check all of it; the paths in it count from the working directory.

    Returns the notebook, the parameters that all runs share, and a dict from each run's name, a hash of its parameters
    and of the code that makes it, to the parameters that set it apart. Raises ValueError for whatever is wrong.
    """
    content = pipeline.read_mapping(path, "notebook: notebooks/03_training.ipynb")
    _only(content, KEYS, path)
    notebook = Path(str(content.get("notebook"))).expanduser()
    if not notebook.is_file():
        raise ValueError(f"{path}: notebook = {content.get('notebook')!r}: there is no such file in {Path.cwd()}")
    defaults = pipeline.defaults(notebook)
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    if not defaults.keys() >= RESERVED or not any("runs.finish(" in c or runs.METRICS in c for c in cells):
        raise ValueError(
            f"{path}: {notebook} cannot be swept: wanted is one with the parameters run_name and runs_dir that writes "
            f"runs_dir/run_name/{runs.METRICS}, by runs.finish()"
        )
    base = pipeline.read_parameters(str(content["base"]), extra=defaults) if content.get("base") else {}
    base = {name: value for name, value in base.items() if name in defaults.keys() - RESERVED}
    known = {}  # 03's parameters; in another notebook a name may mean something else
    for name in PARAMETERS.keys() & defaults.keys():
        with suppress(ValueError):
            known |= check_parameters({name: defaults[name]})
    code, overrides = code_hash() + json.dumps(cells), {}
    for changes in _changes(path, content):
        _only(changes, defaults.keys() - RESERVED, f"{path} (each run is named after its parameters)")
        params = {**defaults, **base, **changes}
        try:
            params |= check_parameters({name: params[name] for name in params if name in known})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        text = json.dumps({n: v for n, v in params.items() if n not in RESERVED}, sort_keys=True, default=str)
        name = hashlib.sha256((text + code).encode()).hexdigest()[:16]
        if name in overrides:
            twice = f"with {describe(overrides[name])} and with {describe(changes)}"
            raise ValueError(f"{path}: the same run twice, {twice}")
        overrides[name] = {n: params[n] for n in changes}
    return notebook, base, overrides


def _only(mapping, allowed, where):
    if not isinstance(mapping, dict):
        raise ValueError(f"{where}: {mapping!r}: wanted are lines `name: value`")
    if unknown := sorted(map(str, mapping.keys() - set(allowed))):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}. Allowed are {', '.join(sorted(allowed))}")


def _changes(path, content):
    """Yield what sets each run apart, a dict: seeds times variants times grid times random samples.

    Seeds come first: each configuration has been run once after a first round, and an hour in which the machine is
    slow falls on all configurations alike.
    """
    parts = [[{}]] * 4
    if "seeds" in content:
        parts[0] = [{"seed": seed} for seed in _list(path, "seeds", content["seeds"])]
    if "variants" in content:
        parts[1] = _list(path, "variants", content["variants"])
    if "grid" in content:
        if not (isinstance(content["grid"], dict) and content["grid"]):
            raise ValueError(f"{path}: grid = {content['grid']!r}: it must hold lines such as `dropout: [0.0, 0.1]`")
        lists = {name: _list(path, f"grid, {name}", values) for name, values in content["grid"].items()}
        parts[2] = list(ParameterGrid(lists))
    if "random" in content:
        parts[3] = _samples(path, content["random"])
    for seed, *others in itertools.product(*parts):
        changes = {}
        for part in (*others, seed):
            _only(part, part, f"{path}, variants")
            if twice := sorted(map(str, changes.keys() & part.keys())):
                raise ValueError(f"{path}: {', '.join(twice)} stands in two of variants, grid, random and seeds")
            changes |= part
        yield changes


def _list(path, what, values):
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: {what} = {values!r}: allowed is a list with at least one value")
    return values


def _samples(path, random):
    """Draw samples from ranges, a list of dicts; whole limits give whole numbers, each limit included."""
    try:
        _only(random, ("samples", "seed", "ranges"), "random")
        distributions, whole = {}, set()
        for name, limits in random["ranges"].items():
            _only(limits, ("low", "high", "log"), name)
            low, high, log = limits["low"], limits["high"], limits.get("log", False)
            if type(log) is not bool or low >= high or (log and low <= 0):
                raise ValueError("low must be less than high, and more than 0 with log: true")
            if isinstance(low, int) and isinstance(high, int):  # each whole number its share
                low, high = low - 0.5, high + 0.5
                whole.add(name)
            distributions[name] = loguniform(low, high) if log else uniform(low, high - low)
        drawn = list(ParameterSampler(distributions, random["samples"], random_state=random.get("seed", 0)))
        drawn = [{n: round(v) if n in whole else float(v) for n, v in sample.items()} for sample in drawn]
        return _list(path, "samples", drawn)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: random = {random!r} ({error}): allowed is, for example, {RANDOM_FORM}") from error


def describe(changes: dict) -> str:
    """Say in words what sets a run apart."""
    return ", ".join(f"{name} = {value}" for name, value in changes.items()) or "the base as it is"


# ------------------------------------------------------------------------------------------------------ on a worker


class IgnoreInterrupt(WorkerPlugin):
    """Leave Ctrl-C, which a terminal sends to every process, to the command, which then closes the workers."""

    def setup(self, worker):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def worker_info() -> dict:
    """Return what runs on a worker depend on: host, cores, and versions, which must be the same everywhere."""
    versions = {"python": platform.python_version(), "package": code_hash(all_files())}
    return {"host": socket.gethostname(), "cores": CPU_COUNT, "versions": versions | {p: version(p) for p in PACKAGES}}


def check_worker(address: str, nthreads: int, info, versions: dict) -> str:
    """Say why a worker cannot take part, "" when it can; `info`: what `worker_info` gave there, or an exception."""
    if nthreads > 1:
        return f"{address} takes {nthreads} runs into one process. Start it with --nthreads 1"
    if isinstance(info, Exception):
        return f"the worker {address} has not this project: {info}. Install it there: pip install -e ."
    different = [name for name in versions if info["versions"].get(name) != versions[name]]
    return f"the worker {address} has another {', '.join(different)}. Install the same there." if different else ""


def run_notebook(source, notebook, name, parameters, threads, cell_seconds, versions) -> tuple[str, bytes]:
    """Execute one run in a temporary run folder; return what went wrong ("" if nothing), and the folder as a zip file.

    `source`: the notebook as JSON; `notebook`: its path, in whose folder the kernel works where this machine has it;
    `threads`: TensorFlow's, by host; `versions`: see `check_worker`, for a worker that joined later.
    """
    worker = get_worker()
    if error := check_worker(worker.address, worker.state.nthreads, worker_info(), versions):
        return error, _zipped(Path(worker.local_directory, name))
    os.environ |= thread_settings(threads.get(socket.gethostname(), 1))
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # workers share a graphics card
    with tempfile.TemporaryDirectory(dir=worker.local_directory) as runs_dir:
        folder, copy = Path(runs_dir, name), Path(runs_dir, Path(notebook).name)
        (folder / "notebooks").mkdir(parents=True)
        copy.write_text(source, encoding=runs.UTF8)
        cwd = Path(notebook).parent if Path(notebook).is_file() else runs_dir
        values, error = {**parameters, "run_name": name, "runs_dir": runs_dir}, ""
        options = {"progress_bar": False, "execution_timeout": cell_seconds, "shutdown_kernel": "immediate"}
        try:
            pipeline.execute_notebook(copy, folder / "notebooks" / copy.name, values, cwd=cwd, **options)
        except PapermillExecutionError as failure:
            error = f"cell [{failure.exec_count}]: {failure.ename}: {failure.evalue}"
        except (CellTimeoutError, DeadKernelError, OSError) as failure:  # a longer cell: --cell-seconds
            error = f"{type(failure).__name__}: {failure}"
        if not error and not runs.is_complete(folder):
            error = f"the notebook ran to its end but wrote no {runs.METRICS}"
        return " ".join(error.split())[:500], _zipped(folder)


def _zipped(folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                archive.write(path, inside)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------ the command


def run_sweep(notebook, base, overrides, output, workers=None, scheduler=None, threads=None, cell_seconds=3600) -> dict:
    """Execute the runs of `read_sweep` that are not complete yet in `output`; return {name: what went wrong, or ""}.

    `workers` (None: by cores and memory) of a local cluster, or the address of a `scheduler`; `threads`: TensorFlow's,
    of every run (None: each host's cores, shared out). Raises RunError: the sweep cannot start or go on.
    """
    output = Path(output)
    with _locked(output):
        result = {name: "" for name in overrides if runs.is_complete(output / name)}
        if result:
            print(f"{len(result)} of {len(overrides)} runs are complete already, made by the same code")
        pending = [name for name in overrides if name not in result]
        if not pending:
            return result
        workers = min(workers or max(1, min(CPU_COUNT, MEMORY_LIMIT // 2**31)), len(overrides))  # 2 GiB for each
        if not scheduler:  # by the sweep, not by what is left of it: the last run, too, computes as it would have
            threads = threads or max(1, CPU_COUNT // workers)
        with _cluster(min(workers, len(pending)), scheduler) as client:
            host_threads = check_workers(client, threads)
            print(f"{len(client.nthreads())} workers, dashboard {client.dashboard_link or 'none'}", flush=True)
            task = (nbformat.writes(nbformat.read(notebook, as_version=4)), str(Path(notebook).resolve()))
            options = (host_threads, cell_seconds, worker_info()["versions"])
            futures = {}
            for name in pending:
                arguments = (*task, name, {**base, **overrides[name]}, *options)
                futures[client.submit(run_notebook, *arguments, key=f"run-{name}", pure=False, retries=RETRIES)] = name
            with tqdm(total=len(overrides), initial=len(result), unit="run", desc="runs") as bar:
                for future in as_completed(list(futures)):
                    name = futures.pop(future)
                    result[name] = _collect(future, output, name)
                    future.release()
                    if result[name]:
                        tqdm.write(f"{name} ({describe(overrides[name])}) failed: {result[name]}")
                    bar.update()
    return result


def check_workers(client, threads=None) -> dict:
    """Check every worker of a cluster; return {host: TensorFlow's threads of a run}.

    Raises RunError: there is no worker, or one cannot take part, see `check_worker`.
    """
    slots, versions = client.nthreads(), worker_info()["versions"]
    if not slots:
        raise runs.RunError("the cluster has no worker. Start some: dask worker tcp://HOST:8786 --nthreads 1")
    found = client.run(worker_info, on_error="return")
    for address, info in found.items():
        if error := check_worker(address, slots.get(address, 1), info, versions):
            raise runs.RunError(error)
    hosts = [info["host"] for info in found.values()]
    return {info["host"]: threads or max(1, info["cores"] // hosts.count(info["host"])) for info in found.values()}


@contextmanager
def _locked(output):
    """Hold the output folder against a second sweep, and clear what an interrupted one left half unpacked."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".sweep.lock", timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise runs.RunError(f"another sweep is writing {output}. Wait for it, or choose another --output.") from error
    except OSError as error:
        raise runs.RunError(f"cannot write {output}: {error}. Choose another --output, or make room.") from error
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
            raise runs.RunError(f"no scheduler answers at {scheduler}: {error}. Start one: dask scheduler") from error
        with client:
            yield client
        return
    own = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    with dask.config.set({"distributed.scheduler.worker-saturation": 1.0}):  # no run waits behind another
        try:
            cluster = LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", **own)
        except (OSError, RuntimeError) as error:  # dask's settings are a user's, such as a folder that is not there
            told = f"no workers could be started: {error}. Look at ~/.config/dask and DASK_ variables."
            raise runs.RunError(told) from error
    with cluster, Client(cluster) as client:
        client.register_plugin(IgnoreInterrupt())
        yield client


def _collect(future, output, name):
    """Move one run's folder to its place in one step; return what went wrong in the run, "" if nothing."""
    try:
        error, zipped = future.result()
    except CancelledError as error:
        raise runs.RunError(LOST) from error
    except Exception as error:  # the engine's own, such as KilledWorker
        return " ".join(f"{type(error).__name__}: {error}".split())
    incoming = output / f".incoming-{name}"
    try:
        incoming.mkdir(exist_ok=True)  # that of a run which could not begin is empty
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            archive.extractall(incoming)
        shutil.rmtree(output / name, ignore_errors=True)  # a failed attempt's
        os.replace(incoming, output / name)
    except OSError as error:
        shutil.rmtree(incoming, ignore_errors=True)
        told = f"cannot write {output / name}: {error}. Make room, then start the same command again."
        raise runs.RunError(told) from error
    return error


def main(words=None):
    """Parse the command line, check, run, and print a table; exit 1 when a run failed or nothing could start."""
    parser = argparse.ArgumentParser(prog="python -m fmnist_utils.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("sweep", help="a file such as sweeps/seeds.yaml")
    parser.add_argument("--workers", type=int, help="runs side by side on this machine (default: by cores and memory)")
    parser.add_argument("--scheduler", help="a dask scheduler, tcp://HOST:PORT, instead of this machine alone")
    parser.add_argument("--threads", type=int, help="TensorFlow's threads a run (default: each host's cores, shared)")
    parser.add_argument("--output", help="folder for the run folders (default: runs/NAME in the project)")
    parser.add_argument("--cell-seconds", type=int, default=3600, help="a cell's longest time (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="check the sweep and list its runs, no more")
    arguments = parser.parse_args(words)
    for stream in (sys.stdout, sys.stderr):  # an old terminal or a log must not end a command
        stream.reconfigure(errors="backslashreplace")
    options = {name: getattr(arguments, name) for name in ("workers", "threads", "cell_seconds")}
    for name, given in options.items():
        if given is not None and given < 1:
            parser.error(f"--{name.replace('_', '-')} {given}: allowed is 1 or more")
    output = Path(arguments.output or runs.runs_folder() / Path(arguments.sweep).stem).expanduser()
    try:
        notebook, base, overrides = read_sweep(arguments.sweep)
        print(f"{len(overrides)} runs of {notebook}, into {output}")
        if arguments.dry_run:
            print(*(f"  {name}  {describe(changes)}" for name, changes in overrides.items()), sep="\n")
            return
        result = run_sweep(notebook, base, overrides, output, scheduler=arguments.scheduler, **options)
        for name, changes in overrides.items():
            state = f"failed: {result[name][:60]}"
            if not result[name]:
                metrics = runs.read_metrics(runs.Run(output / name, {}))
                state = ", ".join(f"{key} {metrics[key]:.4f}" for key in REACHED if key in metrics) or "complete"
            print(f"{name}  {state}  {describe(changes)}")
    except (ValueError, RuntimeError) as error:  # a runs.RunError, or the RunError of a damaged file
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Finished runs are kept; the same command goes on with the others.")
    if failed := [name for name in result if result[name]]:
        sys.exit(f"\n{len(failed)} of {len(overrides)} runs failed; what they left, with the error, is in {output}.")


if __name__ == "__main__":
    from fmnist_utils import sweep  # under its own name, by which workers find its functions

    sweep.main()
