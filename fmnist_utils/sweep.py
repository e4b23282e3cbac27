"""Many runs of one notebook, side by side, on this machine or on many: `python -m fmnist_utils.sweep sweeps/NAME.yaml`.

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
import math
import os
import shutil
import socket
import sys
import tempfile
import zipfile
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from random import Random

import dask
import nbformat
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, as_completed, get_worker
from distributed.system import MEMORY_LIMIT
from filelock import FileLock
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from fmnist_utils import pipeline, runs
from fmnist_utils._environment import SOURCES, code_hash, plain_code, thread_settings
from fmnist_utils.parameters import PARAMETERS, check_parameters

RESERVED = {"run_name", "runs_dir"}  # the sweep names its runs itself
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "papermill", "nbclient", "dask", "distributed")


def read_sweep(path) -> tuple[Path, dict, dict]:
    """Read a sweep file and check all of it; the paths in it count from the working directory.

    Returns the notebook, the parameters that all runs share, and a dict from each run's name, a hash of its parameters
    and of the code that makes it, to the parameters that set it apart. Raises ValueError for whatever is wrong.
    """
    content = pipeline.read_mapping(path, "notebook: notebooks/03_training.ipynb")
    _only(content, {"notebook", "base", "variants", "grid", "random", "seeds"}, path)
    notebook = Path(str(content.get("notebook"))).expanduser()
    if not notebook.is_file():
        raise ValueError(f"{path}: notebook = {content.get('notebook')!r}: there is no such file in {Path.cwd()}")
    defaults = pipeline.defaults(notebook)
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    if not defaults.keys() >= RESERVED or not any("runs.finish(" in c or runs.METRICS in c for c in cells):
        raise ValueError(f"{notebook} cannot be swept: it must write runs_dir/run_name/{runs.METRICS}, two parameters")
    base = pipeline.read_parameters(str(content["base"]), extra=defaults) if "base" in content else {}
    base = {name: value for name, value in base.items() if name in defaults.keys() - RESERVED}
    known = set()  # 03's parameters; in another notebook a name may mean something else
    for name in PARAMETERS.keys() & defaults.keys():
        with suppress(ValueError):
            known |= check_parameters({name: defaults[name]}).keys()
    cells += [path.read_text(encoding=runs.UTF8) for path in sorted(notebook.parent.glob("*.py"))]
    code, overrides = code_hash(cells=()) + json.dumps([plain_code(cell) for cell in cells]), {}
    for changes in _changes(content, defaults):
        _only(changes, defaults.keys() - RESERVED, "each run is named after its parameters")
        params = {**defaults, **base, **changes}
        params |= check_parameters({name: params[name] for name in params if name in known})
        text = json.dumps({n: v for n, v in params.items() if n not in RESERVED}, sort_keys=True, default=str)
        name = hashlib.sha256((text + code).encode()).hexdigest()[:16]
        if name in overrides:
            raise ValueError(f"the same run twice: with {describe(overrides[name])} and with {describe(changes)}")
        overrides[name] = {n: params[n] for n in changes}
    return notebook, base, overrides


def _only(mapping, allowed, where):
    if not isinstance(mapping, dict):
        raise ValueError(f"{where}: {mapping!r}: allowed are lines `name: value`")
    if unknown := sorted(map(str, mapping.keys() - set(allowed))):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}. Allowed are {', '.join(sorted(allowed))}")


def _changes(content, defaults):
    """Yield what sets each run apart, a dict: seeds times variants times grid times random samples.

    Seeds first: each configuration is run before any is repeated, and an hour of a slow machine falls on all alike.
    """
    grid = content.get("grid", {})
    _only(grid, grid, "grid")
    lists = [_list(f"grid, {name}", values) for name, values in grid.items()]
    parts = (
        [{"seed": seed} for seed in _list("seeds", content["seeds"])] if "seeds" in content else [{}],
        _list("variants", content.get("variants", [{}])),
        [dict(zip(grid, values, strict=True)) for values in itertools.product(*lists)],
        _samples(content["random"], defaults) if "random" in content else [{}],
    )
    for seed, *others in itertools.product(*parts):
        changes = {}
        for part in (*others, seed):
            _only(part, part, "variants")
            if twice := sorted(map(str, changes.keys() & part.keys())):
                raise ValueError(f"{', '.join(twice)} appears in two of variants, grid, random and seeds")
            changes |= part
        yield changes


def _list(what, values):
    if not isinstance(values, list) or not values:
        raise ValueError(f"{what} = {values!r}: allowed is a list with at least one value")
    return values


def _samples(content, defaults):
    """Draw samples from ranges, a list of dicts; of a whole parameter whole numbers, each limit included."""
    try:
        _only(content, ("samples", "seed", "ranges"), "random")
        if {type(content["samples"]), type(seed := content.get("seed", 0))} != {int}:
            raise ValueError("samples or seed is no whole number")
        draw, samples = Random(seed), [{} for _ in range(content["samples"])]
        for name, limits in content["ranges"].items():
            _only(limits, ("low", "high", "log"), name)
            low, high, log = limits["low"], limits["high"], limits.get("log", False)
            whole = type(defaults.get(name)) is int
            numbers = {type(low), type(high)} <= {int, *[float] * (not whole)} and low < high and (low > 0 or not log)
            if not numbers or type(log) is not bool:  # 1e-4 is text, 1.0e-4 is not
                raise ValueError(f"{name}: allowed are numbers low < high, positive with log: true; 1.0e-4, not 1e-4")
            low, high = low - whole / 2, high + whole / 2  # each whole number its share
            for sample in samples:
                value = math.exp(draw.uniform(math.log(low), math.log(high))) if log else draw.uniform(low, high)
                sample[name] = round(value) if whole else value
        return _list("samples", samples)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        form = "{samples: 8, seed: 0, ranges: {learning_rate: {low: 0.001, high: 0.02, log: true}}}"
        raise ValueError(f"random = {content!r} ({error}): allowed is, for example, {form}") from error


def describe(changes: dict) -> str:
    """Say in words what sets a run apart."""
    return ", ".join(f"{name} = {value}" for name, value in changes.items()) or "the base as it is"


def worker_info() -> dict:
    """Return what runs on a worker depend on: host, cores, and versions, which must be the same everywhere."""
    versions = {"python": sys.version.split()[0], "package": code_hash(SOURCES, ())}
    return {"host": socket.gethostname(), "cores": CPU_COUNT, "versions": versions | {p: version(p) for p in PACKAGES}}


def check_worker(address: str, nthreads: int, info, versions: dict):
    """Raise RunError when a worker cannot take part; `info`: what `worker_info` gave there, or an exception."""
    if nthreads > 1:
        raise runs.RunError(f"{address} takes {nthreads} runs into one process. Start it with --nthreads 1")
    if isinstance(info, Exception):
        raise runs.RunError(f"{address} does not have this project: {info}. Install it there: pip install -e .")
    if different := [name for name in versions if info["versions"].get(name) != versions[name]]:
        raise runs.RunError(f"the worker {address} has another {', '.join(different)}. Install the same there.")


def run_notebook(source, notebook, name, parameters, threads, cell_seconds, versions) -> tuple[str, bytes]:
    """Execute one run in a temporary run folder; return what went wrong ("" if nothing), and the folder as a zip file.

    `source`: the notebook as JSON; `notebook`: its path, in whose folder the kernel works where this machine has it;
    `threads`: TensorFlow's, by host; `versions`: see `check_worker`, for a worker that joined later.
    """
    worker = get_worker()
    check_worker(worker.address, worker.state.nthreads, worker_info(), versions)
    os.environ |= thread_settings(threads.get(socket.gethostname(), 1))
    with tempfile.TemporaryDirectory(dir=worker.local_directory, ignore_cleanup_errors=True) as runs_dir:
        folder, copy = Path(runs_dir, name), Path(runs_dir, Path(notebook).name)
        (folder / "notebooks").mkdir(parents=True)
        copy.write_text(source, encoding=runs.UTF8)
        cwd = Path(notebook).parent if Path(notebook).is_file() else runs_dir
        values = {**parameters, "run_name": name, "runs_dir": runs_dir}
        options = {"progress_bar": False, "execution_timeout": cell_seconds, "shutdown_kernel": "immediate"}
        try:
            pipeline.execute_notebook(copy, folder / "notebooks" / copy.name, values, cwd=cwd, **options)
            error = "" if runs.is_complete(folder) else f"the notebook ran to its end but wrote no {runs.METRICS}"
        except PapermillExecutionError as failure:
            error = f"cell [{failure.exec_count}]: {failure.ename}: {failure.evalue}"
        except (CellTimeoutError, DeadKernelError, OSError) as failure:  # a longer cell: --cell-seconds
            error = f"{type(failure).__name__}: {failure}"
        if error:  # in a cell after the one that wrote it, perhaps: such a run is not complete
            (folder / runs.METRICS).unlink(missing_ok=True)
        shutil.rmtree(folder / ".work", ignore_errors=True)  # a failed training's checkpoint
        return " ".join(error.split())[:500], Path(shutil.make_archive(str(folder), "zip", folder)).read_bytes()


def run_sweep(notebook, base, overrides, output, workers=None, scheduler=None, threads=None, cell_seconds=3600) -> dict:
    """Execute the runs of `read_sweep` that are not complete yet in `output`; return {name: what went wrong, or ""}.

    `workers` (None: by cores and memory) of a local cluster, or the address of a `scheduler`; `threads`: TensorFlow's,
    of every run (None: each host's cores, shared out). Raises RunError: the sweep cannot start or go on.
    """
    with _locked(output := Path(output)):
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
            calls = [(*task, name, {**base, **overrides[name]}, *options) for name in pending]
            keys = [f"run-{name}" for name in pending]  # of one prefix, or dask would let runs wait behind others
            futures = client.map(run_notebook, *zip(*calls, strict=True), key=keys, retries=2)
            done = tqdm(as_completed(futures), total=len(overrides), initial=len(result), unit="run", desc="runs")
            for future in done:
                name = future.key.removeprefix("run-")
                result[name] = _collect(future, output / name)
                future.release()
                if result[name]:
                    tqdm.write(f"{name} ({describe(overrides[name])}) failed: {result[name]}")
    return result


def check_workers(client, threads=None) -> dict:
    """Check every worker of a cluster, see `check_worker`; return {host: TensorFlow's threads of a run}."""
    slots, versions = client.nthreads(), worker_info()["versions"]
    if not slots:
        raise runs.RunError("the cluster has no worker. Start some: dask worker tcp://HOST:8786 --nthreads 1")
    found = client.run(worker_info, on_error="return")
    for address, info in found.items():
        check_worker(address, slots.get(address, 1), info, versions)
    hosts = [info["host"] for info in found.values()]
    return {info["host"]: threads or max(1, info["cores"] // hosts.count(info["host"])) for info in found.values()}


@contextmanager
def _locked(output):
    """Hold the output folder against a second sweep, and clear what an interrupted one left half unpacked."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".sweep.lock").acquire(timeout=0)
    except OSError as error:  # a filelock.Timeout, too
        told = f"cannot write {output}, or another sweep is writing it now: choose another --output ({error})"
        raise runs.RunError(told) from error
    with lock:
        for half in output.glob(".incoming-*"):
            shutil.rmtree(half, ignore_errors=True)
        yield


@contextmanager
def _cluster(workers, scheduler):
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is told in one line
    own = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    with ExitStack() as stack:
        try:
            with dask.config.set({"distributed.scheduler.worker-saturation": 1.0}):  # no run waits behind another
                local = None if scheduler else LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", **own)
            client = stack.enter_context(Client(scheduler or stack.enter_context(local), timeout=10))
        except (OSError, ValueError, RuntimeError) as error:  # dask's settings are a user's
            told = f"no scheduler answers at {scheduler}" if scheduler else "no workers could be started"
            raise runs.RunError(f"{told}: {error}") from error
        if local:  # a terminal sends Ctrl-C to every process; the command then closes the workers
            client.run(exec, "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
        yield client


def _collect(future, folder):
    """Move one run's folder to its place in one step; return what went wrong in the run, "" if nothing."""
    try:
        error, zipped = future.result()
    except CancelledError as error:
        raise runs.RunError("the scheduler was lost. Finished runs are kept: start the same command again.") from error
    except Exception as error:  # the engine's own, such as KilledWorker
        return " ".join(f"{type(error).__name__}: {error}".split())
    incoming = folder.with_name(f".incoming-{folder.name}")
    zipfile.ZipFile(io.BytesIO(zipped)).extractall(incoming)
    shutil.rmtree(folder, ignore_errors=True)  # a failed attempt's
    os.replace(incoming, folder)
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
    options = {name: getattr(arguments, name) for name in ("workers", "scheduler", "threads", "cell_seconds")}
    output = Path(arguments.output or runs.runs_folder() / Path(arguments.sweep).stem).expanduser()
    try:
        notebook, base, overrides = read_sweep(arguments.sweep)
        print(f"{len(overrides)} runs of {notebook}, into {output}")
        if arguments.dry_run:
            print(*(f"  {name}  {describe(changes)}" for name, changes in overrides.items()), sep="\n")
            return
        result = run_sweep(notebook, base, overrides, output, **options)
        for name, changes in overrides.items():
            metrics = {} if result[name] else runs.read_metrics(runs.Run(output / name, {}))
            reached = [f"{key} {metrics[key]}" for key in ("val_accuracy", "train_seconds") if key in metrics]
            state = f"failed: {result[name][:60]}" if result[name] else ", ".join(reached) or "complete"
            print(f"{name}  {state}  {describe(changes)}")
    except (ValueError, RuntimeError, OSError) as error:  # the disk is full, say: what is finished is kept
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Finished runs are kept; the same command goes on with the others.")
    if failed := [name for name in result if result[name]]:
        sys.exit(f"\n{len(failed)} of {len(overrides)} runs failed; what they left, with the error, is in {output}.")


if __name__ == "__main__":
    from fmnist_utils import sweep  # under its own name, by which workers find its functions

    sweep.main()
