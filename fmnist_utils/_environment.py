"""What a result depends on besides its parameters: versions, hardware, threads, the commit, and a hash of the code."""

import ast
import builtins
import dis
import hashlib
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

PACKAGE = Path(__file__).resolve().parent
TRAINING_MODULES = ("_tensorflow.py", "_training_copy.py", "augmentation.py", "data.py", "model.py", "training.py")
# as they were loaded: what is written into a file later does not count
FILES = [path for kind in ("py", "mplstyle", "yaml") for path in PACKAGE.glob(f"[a-z_]*.{kind}")]
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in FILES}
NOTEBOOK_MODULES = SOURCES.keys() - {"pipeline.py", "sweep.py"}
MUTATORS = "append clear delattr discard extend fill insert pop put remove resize reverse setattr shuffle sort update"


def code_hash(files=TRAINING_MODULES, cells=None) -> str:
    """Return a hash of TensorFlow's and Keras's versions, these files, and the cells that the last of `cells` rests on.

    By default of all that trains and of the running notebook, up to the cell that calls, with the modules beside it.
    Comments, docstrings and parameters do not count. Raises ValueError where a parameter was changed after its use.
    """
    beside = [path for path in sorted(Path.cwd().glob("*.py")) if path.stem in sys.modules and cells is None]
    cells = getattr(sys.modules["__main__"], "In", ()) if cells is None else cells
    code = [plain_code(SOURCES[name]) if name.endswith(".py") else SOURCES[name] for name in sorted(files)]
    code += [version("tensorflow"), version("keras"), *(plain_code(p.read_text(encoding="utf-8")) for p in beside)]
    return hashlib.sha256("\0".join([*code, *_code_behind(cells)]).encode()).hexdigest()


def plain_code(source: str) -> str:
    """Return Python code without comments and docstrings in a form that compares, IPython's commands too."""
    return repr(_plain(_parse(source)))


def _parse(source):
    with suppress(SyntaxError):  # such a cell never ran
        tree = ast.parse(TransformerManager().transform_cell(source))  # of %pip install
        magic = [node for node in ast.walk(tree) if getattr(node, "attr", "") == "run_cell_magic"]
        compile(tree, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)  # `return 1` is a tree, but no cell
        return _parse(tree.body[0].value.args[2].value) if magic else tree  # of %%time
    return ast.parse("")


def declared_parameters(cells) -> tuple[list[str], list[str]]:
    """Return the names in the cell of lines `name: type = literal`, as run last, and those that papermill gave it."""
    declared, given = [], []
    for cell in cells:
        names = parameters_of(cell)
        if declared and cell.startswith("# Parameters"):  # else it may be the notebook's own
            given = names
        elif set(names) & set(declared) or len(names) > len(declared):  # not a line of that form elsewhere
            declared, given = names, []
    return declared, given


def parameters_of(cell: str) -> list[str]:
    """Return the names in a cell of parameters, the notebook's own or papermill's; none for any other cell."""
    with suppress(SyntaxError, ValueError, TypeError, AttributeError):
        values = {ast.unparse(line): ast.literal_eval(line.value) for line in ast.parse(cell).body}
        if cell.startswith("# Parameters") or any(re.match(r"\w+:", line) for line in values):
            return [re.match(r"\w+", line)[0] for line in values]
    return []


def _code_behind(cells):
    """Return the code of the last cell, and of those that gave the names in it their present values, sorted."""
    parameters = set().union(*declared_parameters(cells))
    trees = [None if parameters & {*parameters_of(cell)} else _parse(cell) for cell in cells if cell]
    imports = [n for tree in filter(None, trees) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    modules = {name.asname or name.name.partition(".")[0] for node in imports for name in node.names}
    found, needed, before_parameters = [], set(), False
    for tree in reversed(trees):
        if tree is None:
            before_parameters = True
            continue
        made, used = _names(tree)
        if found and not needed & (made | _changed(tree, modules)):
            continue
        if made & parameters or (before_parameters and used & {*parameters, "globals"}):
            raise ValueError("a parameter was changed outside its cell, or after its use: run again from its cell on")
        code = repr(_plain(tree))
        found += [code] if code not in found or made & used else []  # a cell such as a = 2 * a counts twice
        needed = needed - made | used
    return sorted(found)


def _names(tree):
    """Return the names that a cell gives values to, and those that it uses before it does so."""
    given, used, codes = set(), set(), [compile(tree, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)]
    for code in codes:
        for step in dis.get_instructions(code):
            if step.opname == "STORE_NAME":
                given.add(step.argval)
            elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in given:
                used.add(step.argval)
            elif hasattr(step.argval, "co_code"):  # a function's: the loop comes to it later
                codes.append(step.argval)
    return given, used


def _changed(tree, modules):
    """Return the names whose values a cell may change in place: a[0] = 1, a.b += 1, a.sort(), shuffle(a), own(a)."""
    places = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)]
    for call in [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and hasattr(node.value, "func")]:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        own = isinstance(call.func, ast.Name) and name not in modules and not hasattr(builtins, name)
        if own or name in MUTATORS.split():
            words = [word for part in (call.func, *call.args) for word in ast.walk(part)]
            places += [word for word in words if isinstance(word, ast.Name) and word.id not in modules]
    return {node.id for place in places for node in ast.walk(place) if isinstance(node, ast.Name)}


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
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "scikit-learn")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": within * beside or cores(),  # 0: TensorFlow takes as many as it may use
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus],
        "code_hash": code_hash(),
        "commit": _commit(),
    }


def _cpu():
    with suppress(OSError, KeyError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})"
    return platform.processor() or None


def _commit():
    """Return the project's commit, with "-dirty" where tracked files have changed since; None without git."""
    with suppress(OSError, subprocess.SubprocessError):
        words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        options = {"cwd": PACKAGE, "capture_output": True, "encoding": "utf-8", "check": True, "timeout": 10}
        return subprocess.run(words, **options).stdout.strip()
