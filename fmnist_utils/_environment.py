"""What a result depends on besides its parameters: versions, hardware, threads, the commit, and a hash of the code."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
VERSIONS = ("tensorflow", "keras", "numpy", "scikit-learn", "fmnist-utils")
TRAINING_MODULES = (
    "_checkpoint.py", "_tensorflow.py", "_training_copy.py", "augmentation.py", "data.py", "model.py", "training.py",
)  # fmt: skip


def code_hash(files=TRAINING_MODULES):
    """Return a hash of the package's files of these names; by default of all that a training depends on."""
    return hashlib.sha256(b"\0".join((PACKAGE / name).read_bytes() for name in sorted(files))).hexdigest()


def all_files():
    """Return the names of the package's files: modules, the style of figures, the questions."""
    return [path.name for path in PACKAGE.iterdir() if path.suffix in (".py", ".mplstyle", ".yaml")]


def cores():
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def thread_settings(threads):
    """Return the environment variables by which TensorFlow uses that many threads: two operations share them."""
    return {"TF_NUM_INTRAOP_THREADS": str(max(1, threads // 2)), "TF_NUM_INTEROP_THREADS": str(min(2, threads))}


def environment():
    """Return what a run's environment.json holds, a dict of JSON values; what cannot be found out is None."""
    from fmnist_utils._tensorflow import tf  # only here: a reader of run folders need not wait for TensorFlow

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in VERSIONS},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": _threads(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus],
        "code_hash": code_hash(),
        **_commit(),
    }


def _threads():
    within, beside = (int(os.environ.get(f"TF_NUM_{kind}OP_THREADS", 0)) for kind in ("INTRA", "INTER"))
    return within * beside or cores()  # 0: TensorFlow takes as many as it may use


def _version(package):
    with suppress(PackageNotFoundError):
        return version(package)


def _cpu():
    with suppress(OSError, KeyError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})"
    return platform.processor()


def _commit():
    """Return the commit and whether files differ from it; None for both outside a repository that holds the package."""
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)  # the project may lie in a foreign repository
    status = _git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {
        "commit": _git("rev-parse", "HEAD") if tracked else None,
        "uncommitted_changes": None if status is None else bool(status),
    }


def _git(*words):
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", PACKAGE, *words]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout.strip()
