"""Sweeps: many runs of one notebook, side by side, on this machine or on many.

python -m fmnist_utils.sweep sweeps/NAME.yaml [--workers N] [--scheduler tcp://HOST:PORT] [--output DIR] [--dry-run]

A sweep file has the keys notebook, base (a parameter file), variants (a list of changes to it), grid (name: list of
values), random (samples, seed, ranges) and seeds (a list); all but notebook may be left out, and its paths count from
the working directory. Every combination is one run. dask.distributed hands the runs out, papermill executes them, and
each run's folder comes back through the cluster, so the machines need no shared disk.
"""

import argparse
import io
import logging
import os
import shutil
import signal
import sys
import threading
import zipfile
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pandas as pd
import psutil
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, as_completed
from distributed.system import MEMORY_LIMIT
from filelock import FileLock, Timeout
from tqdm import tqdm

from fmnist_utils import pipeline, runs
from fmnist_utils._files import read_yaml
from fmnist_utils._sweep_file import describe, read_sweep
from fmnist_utils._sweep_worker import IgnoreInterrupt, check_worker, fetch_data, run_notebook, worker_info

GRACE = 15  # seconds from Ctrl-C until a cluster that does not close is killed
STOPPED = "\nStopped. Finished runs are kept; the same command goes on with the others."
LOST = "the scheduler was lost. Finished runs are kept: start the same command again."
GIB = 2**30
SIDE_BY_SIDE = 1.2  # times as many runs an hour as one after another, benchmarks/results/sweep_throughput.json


class SweepError(RuntimeError):
    """A sweep cannot start or go on; the message says what to do."""


def check_workers(client, threads=None):
    """Check every worker of a cluster.

    Args:
        client (distributed.Client): Of the cluster.
        threads (int or None): TensorFlow's, of every run; None shares each host's cores out.

    Returns:
        {host: TensorFlow's threads a run}.

    Raises:
        SweepError: There is no worker, or one cannot take part, see `check_worker`.
    """
    slots, here = client.nthreads(), worker_info()["versions"]
    if not slots:
        raise SweepError("the cluster has no worker. Start some: dask worker tcp://HOST:8786 --nthreads 1")
    found = client.run(worker_info, on_error="return")
    for address, info in found.items():
        if error := check_worker(address, slots.get(address, 1), info, here):
            raise SweepError(error)
    one_a_host = list({info["host"]: address for address, info in found.items()}.values())
    for address, error in client.run(fetch_data, workers=one_a_host, on_error="return").items():
        if error:
            raise SweepError(f"the worker {address} cannot get the data set: {error}")
    hosts = [info["host"] for info in found.values()]
    return {info["host"]: threads or max(1, info["cores"] // hosts.count(info["host"])) for info in found.values()}


def default_workers():
    """Return how many runs fit on this machine side by side: one a core, and 2 GiB of memory for each."""
    return max(1, min(CPU_COUNT, MEMORY_LIMIT // (2 * GIB)))


def run_sweep(notebook, base, overrides, output, workers=None, scheduler=None, threads=None, cell_seconds=3600):
    """Execute the runs that are not complete yet. A finished run is in its place before the next is counted.

    Args:
        notebook (Path): From `read_sweep`, as are base and overrides.
        base (dict): Parameters of all runs.
        overrides (dict): {name of a run: what sets it apart}.
        output (Path): The folder of the run folders.
        workers (int or None): Of the local cluster.
        scheduler (str or None): The address of another cluster instead.
        threads (int or None): TensorFlow's, of every run.
        cell_seconds (int): The longest that a cell may take.

    Returns:
        {name: what went wrong}, "" if nothing.

    Raises:
        SweepError: The sweep cannot start or go on.
    """
    output = Path(output)
    with _lock_output(output):
        result = {name: "" for name in overrides if runs.is_complete(output / name)}
        if result:
            print(f"{len(result)} of {len(overrides)} runs are complete already, made by the same code")
        if len(result) == len(overrides):
            return result
        workers = min(workers or default_workers(), len(overrides))
        if not scheduler:  # by the sweep, not by what is left of it: the last run, too, computes as it would have
            threads = threads or max(1, CPU_COUNT // workers)
        with _cluster(min(workers, len(overrides) - len(result)), scheduler) as client:
            host_threads = check_workers(client, threads)
            print(f"{len(client.nthreads())} workers, dashboard {client.dashboard_link or 'none'}", flush=True)
            options = (host_threads, cell_seconds, worker_info()["versions"])
            task = (nbformat.writes(nbformat.read(notebook, as_version=4)), str(notebook.resolve()))
            _run_pending(client, task, base, overrides, output, result, options)
    return result


def _run_pending(client, task, base, overrides, output, result, options):
    """Hand out one run a worker: dask would queue a second behind a first while another worker is idle."""
    pending = [name for name in overrides if name not in result]
    accepted, finished, futures = dict.fromkeys(client.nthreads(), True), as_completed(), {}

    def hand_out():
        fitting = _fitting_workers(client, accepted)
        where = None if all(accepted.values()) else fitting  # None lets dask use a worker that was started again
        while pending and len(futures) < max(1, len(fitting)):
            name = pending.pop(0)
            future = client.submit(
                run_notebook, *task, name, {**base, **overrides[name]}, *options, key=name, pure=False, workers=where,
            )  # fmt: skip
            futures[future] = name
            finished.add(future)

    hand_out()
    with tqdm(total=len(overrides), initial=len(result), unit="run", desc="runs") as bar:
        for future in finished:
            name = futures.pop(future)
            result[name] = _collect(future, output, name)
            future.release()
            hand_out()
            if result[name]:
                tqdm.write(f"{name} ({describe(overrides[name])}) failed: {result[name]}")
            bar.update()


def _fitting_workers(client, accepted):
    """Return the addresses of the workers that take part now, one run at a time each.

    accepted: {address: bool}; workers that joined meanwhile are checked and added to it.
    """
    try:
        nthreads = client.nthreads()
        new = [address for address in nthreads if address not in accepted]
        found = client.run(worker_info, workers=new, on_error="return") if new else {}
    except OSError as error:
        raise SweepError(LOST) from error
    for address, info in found.items():
        error = check_worker(address, nthreads[address], info, worker_info()["versions"])
        accepted[address] = not error
        if error:
            tqdm.write(f"a worker that joined gets no run: {error}")
    return [address for address in nthreads if accepted.get(address)]


@contextmanager
def _lock_output(output):
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
        try:
            cluster = LocalCluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", **own)
        except (OSError, RuntimeError) as error:  # dask's settings are a user's, such as a folder that is not there
            raise SweepError(
                f"no workers could be started on this machine: {error}. Look at dask's own settings: environment "
                "variables that begin with DASK_, and the files in ~/.config/dask."
            ) from error
        with cluster, Client(cluster) as client:
            client.register_plugin(IgnoreInterrupt())
            yield client


def _collect(future, output, name):
    """Move one run's folder to its place in one step; return what went wrong in the run, "" if nothing."""
    try:
        error, zipped = future.result()
    except CancelledError as error:
        raise SweepError(LOST) from error
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
        raise SweepError(
            f"cannot write the run {name} into {output}: {error}. Finished runs are kept: make room, then start the "
            "same command again."
        ) from error
    return error


# ---------------------------------------------------------------------------------------------- the command


def estimate(base, overrides, defaults, workers):
    """Return the seconds that the runs' training may take, None for a notebook of other parameters than 03's.

    The reference run's seconds, scaled by images, epochs and multiply-adds. A run alone has all cores already, so runs
    side by side gain little: SIDE_BY_SIDE.
    """
    if not {"filters", "epochs", "train_size", "validation_fraction"} <= defaults.keys():
        return None
    from fmnist_utils._recipe import NETWORK, training_multiply_adds  # only here: it waits for TensorFlow

    if not set(NETWORK) <= defaults.keys():
        return None
    reference = runs.Run(runs.REFERENCE, read_yaml(runs.REFERENCE / runs.PARAMS))
    seconds = runs.read_metrics(reference)["train_seconds"] / training_multiply_adds(reference.params)
    total = sum(training_multiply_adds({**defaults, **base, **changes}) for changes in overrides.values())
    return seconds * total / (SIDE_BY_SIDE if workers > 1 else 1)


def table(output, overrides, result):
    """Return a frame, a row a run: its name, what sets it apart, what it reached, and what went wrong."""
    rows = []
    for name, changes in overrides.items():
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
    parser.add_argument("--workers", type=int, help="runs side by side on this machine (default: by cores and memory)")
    parser.add_argument("--scheduler", help="a dask scheduler, tcp://HOST:PORT, instead of this machine alone")
    parser.add_argument("--threads", type=int, help="TensorFlow's threads a run (default: each host's cores, shared)")
    parser.add_argument("--output", help="folder for the run folders (default: runs/NAME in the project)")
    parser.add_argument("--cell-seconds", type=int, default=3600, help="a cell's longest time (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="check the sweep and list its runs, no more")
    arguments = parser.parse_args(words)
    pipeline.escape_in_streams()
    signal.signal(signal.SIGINT, _interrupt)
    for option in ("workers", "threads", "cell_seconds"):
        if (given := getattr(arguments, option)) is not None and given < 1:
            parser.error(f"--{option.replace('_', '-')} {given}: allowed is 1 or more")
    output = Path(arguments.output or runs.runs_folder() / Path(arguments.sweep).stem).expanduser()
    try:
        notebook, base, overrides = read_sweep(arguments.sweep)
        seconds = estimate(base, overrides, pipeline.defaults(notebook), arguments.workers or default_workers())
        rough = f", roughly {seconds / 60:.0f} min of training by the reference run's speed" if seconds else ""
        print(f"{len(overrides)} runs of {notebook}{rough}, into {output}")
        if arguments.dry_run:
            print(*(f"  {name}  {describe(changes)}" for name, changes in overrides.items()), sep="\n")
            return
        options = {name: getattr(arguments, name) for name in ("workers", "scheduler", "threads", "cell_seconds")}
        result = run_sweep(notebook, base, overrides, output, **options)
        print(table(output, overrides, result).to_string(index=False))
    except (ValueError, RuntimeError) as error:  # a SweepError, or the RunError of a damaged file
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    if failed := [name for name in result if result[name]]:
        sys.exit(f"\n{len(failed)} of {len(overrides)} runs failed; what they left, with the error, is in {output}.")


if __name__ == "__main__":
    from fmnist_utils import sweep  # under its own name, by which workers find its functions

    sweep.main()
