"""What a result depends on besides its parameters: versions, hardware, threads, the commit, and a hash of the code."""

import ast
import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
VERSIONS = ("tensorflow", "keras", "numpy", "scikit-learn")
TRAINING_MODULES = ("_tensorflow.py", "_training_copy.py", "augmentation.py", "data.py", "model.py", "training.py")


def code_hash(files=TRAINING_MODULES) -> str:
    """Return a hash of these files, by default of all that trains; of Python without comments and docstrings."""
    return hashlib.sha256("\0".join(_code(PACKAGE / name) for name in sorted(files)).encode()).hexdigest()


def _code(path):
    text = path.read_text(encoding="utf-8")
    return text if path.suffix != ".py" else repr(_plain(ast.parse(text)))


def _plain(node):
    """Return a syntax tree without docstrings, as nested lists, the same in every Python (`ast.unparse` is not)."""
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    return [type(node).__name__, *((name, _plain(value)) for name, value in fields.items() if value not in (None, []))]


def all_files() -> list[str]:
    """Return the names of the package's files: modules, the style of figures, the questions."""
    return [path.name for path in PACKAGE.iterdir() if path.suffix in (".py", ".mplstyle", ".yaml")]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def thread_settings(threads: int) -> dict[str, str]:
    """Return the environment variables by which TensorFlow uses that many threads: two operations share them."""
    return {"TF_NUM_INTRAOP_THREADS": str(max(1, threads // 2)), "TF_NUM_INTEROP_THREADS": str(min(2, threads))}


def environment() -> dict:
    """Return what a run's environment.json holds, JSON values; what cannot be found out is None."""
    import tensorflow as tf  # only here: a reader of run folders need not wait for it

    gpus = tf.config.list_physical_devices("GPU")
    set_threads = [os.environ.get(f"TF_NUM_{kind}OP_THREADS", "0") for kind in ("INTRA", "INTER")]
    within, beside = (int(number) if number.isdigit() else 0 for number in set_threads)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": within * beside or cores(),  # 0: TensorFlow takes as many as it may use
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus],
        "code_hash": code_hash(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _cpu():
    with suppress(OSError, KeyError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})"
    return platform.processor()


def _git(*words):
    """Return what git says of the repository that tracks this file; None where there is none."""
    with suppress(OSError, subprocess.SubprocessError):
        git = {"cwd": PACKAGE, "capture_output": True, "encoding": "utf-8", "check": True, "timeout": 10}
        subprocess.run(["git", "ls-files", "--error-unmatch", Path(__file__).name], **git)  # or it is a foreign one
        return subprocess.run(["git", *words], **git).stdout.strip()
