"""What a sweep's worker does: execute one run and hand its folder back, and tell what it is itself."""

import io
import os
import platform
import signal
import socket
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from dask.system import CPU_COUNT
from distributed import WorkerPlugin, get_worker
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from fmnist_utils import _download, pipeline, runs
from fmnist_utils._environment import all_files, code_hash, thread_settings

PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "papermill", "nbclient", "dask", "distributed")
MAX_KERNEL_STARTS = 3  # of a kernel whose start fails, as when two kernels draw the same port


class IgnoreInterrupt(WorkerPlugin):
    """Leave Ctrl-C, which a terminal sends to every process, to the command, which then closes the workers."""

    def setup(self, worker):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_notebook(source, notebook, name, parameters, threads, cell_seconds, versions):
    """Execute one run in a temporary run folder.

    Args:
        source (str): The notebook as JSON text.
        notebook (str): Its path. The kernel works in its folder, as in JupyterLab, where this machine has that folder.
        name (str): The run's name.
        parameters (dict): Of the notebook.
        threads (dict): {host: TensorFlow's threads}.
        cell_seconds (int): The longest that a cell may take.
        versions (dict): What must be installed; a worker that joined a moment ago may have something else.

    Returns:
        What went wrong (str), "" if nothing, and the zipped run folder (bytes), in which the executed notebook is, with
        the error of a run that failed.
    """
    worker = get_worker()
    if error := check_worker(worker.address, worker.state.nthreads, worker_info(), versions):
        return error, _zipped(Path(worker.local_directory, name))
    os.environ |= thread_settings(threads.get(socket.gethostname(), 1))
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # workers share a graphics card
    notebook = Path(notebook)
    with tempfile.TemporaryDirectory(dir=worker.local_directory) as runs_dir:
        folder = Path(runs_dir) / name
        executed = folder / "notebooks" / notebook.name
        executed.parent.mkdir(parents=True)
        copy = Path(runs_dir) / notebook.name
        copy.write_text(source, encoding="utf-8")
        cwd = notebook.parent if notebook.is_file() else copy.parent
        values = {**parameters, "run_name": name, "runs_dir": runs_dir}
        error = _execute(copy, executed, values, cwd, cell_seconds)
        if not error and not runs.is_complete(folder):
            error = f"the notebook ran to its end but wrote no {runs.METRICS}"
        return error, _zipped(folder)


def _execute(source, executed, values, cwd, cell_seconds):
    for start in range(1, MAX_KERNEL_STARTS + 1):
        try:
            pipeline.execute_notebook(
                source, executed, values, cwd=cwd, progress_bar=False, execution_timeout=cell_seconds,
                shutdown_kernel="immediate",
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
            if start == MAX_KERNEL_STARTS:
                return f"the kernel could not be started: {error}"


def _zipped(folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                archive.write(path, inside)
    return file.getvalue()


def worker_info():
    """Return what runs on a worker depend on: its host, cores, and the versions that must be the same everywhere."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    versions["package"] = code_hash(all_files())
    return {"host": socket.gethostname(), "cores": CPU_COUNT, "versions": versions}


def check_worker(address, nthreads, info, versions):
    """Say why a worker cannot take part: more than one thread, no package, another version; "" when it can.

    Args:
        address (str): Of the worker.
        nthreads (int): Tasks that it takes at a time.
        info (dict or Exception): What `worker_info` gave there.
        versions (dict): What is installed here.
    """
    if nthreads > 1:
        return f"{address} takes {nthreads} runs into one process. Start it with --nthreads 1"
    if isinstance(info, Exception):
        return f"the worker {address} has not this project: {info}. Install it there: pip install -e ."
    for name, wanted in versions.items():
        if info["versions"].get(name) != wanted:
            both = f"{str(info['versions'].get(name))[:12]} there, {wanted[:12]} here"
            return f"the worker {address} has another {name} ({both}). Install the same there."
    return ""


def fetch_data():
    """Fetch the data set on a worker, if it is not there; return what went wrong, "" if nothing."""
    try:
        _download.ensure_dataset()
    except _download.DatasetUnavailable as error:
        return " ".join(str(error).split())
    return ""
