"""Run notebooks 01 to 04 headless with one parameter file: `python -m fmnist_utils.pipeline params/quick.yaml`.

The executed notebooks, figures and an HTML report land in the run's folder. What is complete, and was made by the same
notebook, parameters and code, is not run again; to have it anew, delete the run's folder or choose another run_name.
"""

import argparse
import ast
import hashlib
import io
import os
import re
import sys
from pathlib import Path

import nbformat
import papermill
import yaml
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from fmnist_utils import runs
from fmnist_utils._environment import NOTEBOOK_MODULES, TRAINING_MODULES, code_hash, plain_code
from fmnist_utils.parameters import check_parameters

FOLDER = runs.ROOT / "notebooks"
TRAINING, EVALUATION = "03_training", "04_evaluation_and_visualization"
NOTEBOOKS = ("01_data_exploration", "02_model", TRAINING, EVALUATION)
RESULTS = {TRAINING: runs.RESULTS, EVALUATION: (runs.TEST_METRICS, runs.TEST)}
MOVED = {"runs_dir": ""}  # a folder of runs may be moved, as CI does with its cache
KERNEL = {"kernel_name": "python3", "language": "python", "extra_arguments": ["--log-level=50"]}  # quiet


class _StrictLoader(yaml.SafeLoader):
    """YAML without what is read as something else than was meant: a key twice, 010 as 8, 1:30 as 90."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, value in node.value:
            where = f"line {key.start_mark.line + 1}, {key.value}"
            if str(key.value) in seen:
                raise ValueError(f"{where}: this key appears twice")
            seen.add(str(key.value))
            scalars = [value]
            for scalar in scalars:  # it grows by what lists hold
                scalars += scalar.value if isinstance(scalar, yaml.SequenceNode) else []
                if scalar.tag.endswith((":int", ":float")) and re.match(r"[-+]?0[^.]|.*:", scalar.value):
                    raise ValueError(f"{where}: {scalar.value}: allowed are decimal numbers without leading zeros")
        return super().construct_mapping(node, deep)


def read_mapping(path, example: str) -> dict:
    """Return the content of a user's YAML file, lines as in `example`; ValueError where it cannot be read so."""
    try:
        content = yaml.load(Path(path).expanduser().read_text(encoding=runs.UTF8), _StrictLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold lines such as `{example}`")
    return content


def read_parameters(path, extra=()) -> dict:
    """Read a parameter file and check it against the notebooks' own values; run_name defaults to the file's name.

    `extra`: names that are allowed besides. Raises ValueError: no YAML mapping, an unknown name, or a bad value.
    """
    values = read_mapping(path, "epochs: 5")
    committed = {name: value for notebook in NOTEBOOKS for name, value in defaults(notebook).items()}
    known = committed.keys() | set(extra)
    if unknown := ", ".join(sorted(map(str, values.keys() - known))):
        raise ValueError(f"{path}: no notebook has a parameter {unknown}. There are: {', '.join(sorted(known))}")
    values = {"run_name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).lstrip("._-") or "run", **values}
    own = {name: value for name, value in values.items() if name not in extra}
    check_parameters({**committed, "run_name": "run", **own})  # what fits no default is told before a kernel starts
    if "photo_path" in own and not runs.project_path(own["photo_path"]).is_file():
        raise ValueError(f"{path}: photo_path = {own['photo_path']!r}: there is no such file")
    return values | check_parameters(own)


def defaults(notebook) -> dict:
    """Return a notebook's parameters, of a path or of one of ours by name; ValueError: a default is no plain value."""
    path = notebook if isinstance(notebook, Path) else FOLDER / f"{notebook}.ipynb"
    try:
        content = nbformat.read(path, as_version=4)
        content.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        found = papermill.inspect_notebook(content)
        return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{path}: allowed is a notebook with parameters such as 5, 'text', [1, 2] ({told})") from error


def run_all(values: dict) -> Path:
    """Execute 01 to 04 by checked parameters, but not what is complete; write report.html; return the run's folder."""
    folder = runs.runs_folder(values.get("runs_dir", "runs")) / values["run_name"]
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    if (folder / runs.PARAMS).exists():  # before its notebooks are overwritten
        runs.refuse_another(folder, {n: values.get(n, v) for n, v in defaults(TRAINING).items() if n != "runs_dir"})
    for number, notebook in enumerate(NOTEBOOKS, start=1):
        title, output = f"[{number}/{len(NOTEBOOKS)}] {notebook}", folder / "notebooks" / f"{notebook}.ipynb"
        parameters = {name: value for name, value in values.items() if name in defaults(notebook)}
        if not (reason := why_to_run(notebook, parameters, folder)):
            print(f"{title}: complete, made by the same notebook, parameters and code: skipped")
            continue
        if output.is_file():
            print(f"{title}: runs again, since {reason}")
        bar = {"desc": title, "bar_format": "{desc}: {n_fmt}/{total_fmt} cells |{bar:20}| {elapsed}"}
        bar["mininterval"] = 0.1 if sys.stderr.isatty() else 60  # a log wants few lines
        options = {"cwd": FOLDER, "progress_bar": bar, "stdout_file": _EpochLines()}
        done = execute_notebook(FOLDER / output.name, output, parameters, **options)
        done.metadata["fmnist_utils"] = _hashes(notebook, parameters, folder)
        runs.write_json(output, done)
    _write_report(folder)
    return folder


def why_to_run(notebook: str, parameters: dict, folder: Path) -> str:
    """Say why a notebook has to be executed; "" when a run's folder holds it and its results, and all is as it was."""
    try:
        done = nbformat.read(folder / "notebooks" / f"{notebook}.ipynb", as_version=4)
    except (OSError, ValueError, nbformat.ValidationError):  # cut short by a kill: it will be written again
        return "there is no whole notebook of an earlier time"
    facts, now = done.metadata.get("papermill", {}), _hashes(notebook, parameters, folder)
    before = done.metadata.get("fmnist_utils") or dict.fromkeys(now)
    old, new = (_sources(content, notebook) for content in (done, nbformat.read(FOLDER / f"{notebook}.ipynb", 4)))
    as_it_was = {
        "it did not come to its end": facts.get("end_time") and not facts.get("exception"),
        "its parameters have changed": {**facts.get("parameters", {}), **MOVED} == {**parameters, **MOVED},
        "the notebook has changed": old == new,
        **{f"{what} has changed": now[what] == before.get(what) for what in now},
    }
    return next((reason for reason, holds in as_it_was.items() if not holds), "")


def _hashes(notebook, parameters, folder):
    """Return hashes of a notebook's results, and of what they depend on besides its own code and its parameters."""
    files = {"the photo": runs.project_path({**defaults(notebook), **parameters}.get("photo_path", ""))}
    files |= {name: folder / name for name in RESULTS.get(notebook, ())}
    hashes = {what: path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() for what, path in files.items()}
    modules = TRAINING_MODULES if notebook == TRAINING else NOTEBOOK_MODULES  # 03 depends only on what trains
    return {"the package's code, or TensorFlow,": code_hash(modules, ()), **hashes}


def _sources(content, notebook):
    cells = [cell for cell in content.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    code = [plain_code(cell.source) for cell in cells if cell.cell_type == "code"]
    return code if notebook == TRAINING else [cell.source for cell in cells]  # for better prose nobody trains again


def execute_notebook(source, output, parameters: dict, **options):
    """Execute a notebook with papermill, in a kernel of this Python whatever its metadata say, with pictures."""
    os.environ.pop("MPLBACKEND", None)  # or the kernel would draw no pictures
    return papermill.execute_notebook(source, output, parameters, **KERNEL, **options)


class _EpochLines(io.StringIO):
    """A text stream that shows only what a training tells, without tearing the progress bar."""

    def write(self, text):
        for line in re.findall(r"^epochs? +(?:\d|of ).*", text, re.MULTILINE):
            tqdm.write(f"      {line}")


def _write_report(folder):
    """Join the executed notebooks into folder/report.html, one page that opens without a network."""
    parts = [nbformat.read(folder / "notebooks" / f"{notebook}.ipynb", as_version=4) for notebook in NOTEBOOKS]
    cells = [cell for part in parts for cell in part.cells]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the notebooks share ids such as `imports`
    report = nbformat.v4.new_notebook(cells=cells, metadata={"title": f"Fashion-MNIST: the run {folder.name}"})
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(report)
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)  # they would be fetched from the network
    with runs.atomic_write(folder / "report.html") as temporary:
        temporary.write_text(page, encoding=runs.UTF8)


def _print_table(folder):
    run = runs.find(folder.name, folder.parent)
    metrics, test = runs.read_metrics(run), runs.read_metrics(run, runs.TEST_METRICS)
    interval = f"{test['test_accuracy_low']:.2%} to {test['test_accuracy_high']:.2%}"
    print(f"\nRun {run.name}: {metrics['model_parameters']:,} parameters, seed {metrics['seed']}")
    print(f"  training              {metrics['train_seconds']:.0f} s, {metrics['images_per_second']:,.0f} images/s")
    if metrics["val_accuracy"] >= 0:  # it is nan without validation images
        print(f"  validation accuracy   {metrics['val_accuracy']:.2%}, epoch {metrics['best_epoch']} kept")
    print(f"  test accuracy         {test['test_accuracy']:.2%}, 95 % interval {interval}")
    print(f"  report                {folder / 'report.html'}")


def main(words=None):
    """Parse the command line, run, and end with a table; exit 1 with one clear message when something fails."""
    parser = argparse.ArgumentParser(prog="python -m fmnist_utils.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("parameters", nargs="?", default="params/quick.yaml", help="default: params/quick.yaml")
    arguments = parser.parse_args(words)
    for stream in (sys.stdout, sys.stderr):  # an old terminal or a log must not end a command
        stream.reconfigure(errors="backslashreplace")
    try:
        _print_table(run_all(read_parameters(arguments.parameters)))
    except PapermillExecutionError as error:
        told = f"The notebook failed in cell [{error.exec_count}]: {error.ename}: {error.evalue}"
        sys.exit(f"\n{told}\nIt is kept, with the error, in the run's folder, under notebooks/.")
    except (ValueError, OSError, runs.RunError) as error:
        sys.exit(f"\n{error}")
    except RuntimeError as error:  # a kernel that was killed, wanted memory, or did not come up
        sys.exit(f"\n{error}. Finished epochs are kept: the same command goes on.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from the last finished epoch.")


if __name__ == "__main__":
    main()
