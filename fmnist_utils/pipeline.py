"""Run notebooks 01 to 04 headless with one parameter file: `python -m fmnist_utils.pipeline params/quick.yaml`.

The executed notebooks, figures and an HTML report land in the run's folder. What is complete, and was made by the same
notebook, parameters and code, is not run again.
"""

import argparse
import ast
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from fmnist_utils import runs
from fmnist_utils._environment import all_files, code_hash
from fmnist_utils._files import UTF8, read_mapping, write_text
from fmnist_utils.parameters import check_parameters, removed_hint

FOLDER = runs.ROOT / "notebooks"
TRAINING, EVALUATION = "03_training", "04_evaluation_and_visualization"
NOTEBOOKS = tuple(path.stem for path in sorted(FOLDER.glob("*.ipynb")) if re.fullmatch(r"0[1-4]_[a-z_]+", path.stem))
RESULTS = {TRAINING: runs.METRICS, EVALUATION: runs.TEST_METRICS}
# a change there changes no notebook
HEADLESS = ("pipeline.py", "sweep.py", "_sweep_file.py", "_sweep_worker.py", "_recipe.py")
KERNEL = "python3"  # of this Python
QUIET_KERNEL = ["--log-level=50"]  # its notices are not for the terminal; errors stand in the notebook


def read_parameters(path, extra=()):
    """Read a parameter file and check it against all notebooks.

    Args:
        path (str or Path): The file.
        extra (iterable of str): Names that are allowed besides.

    Returns:
        dict: Its values; run_name defaults to the file's name.

    Raises:
        ValueError: The file is missing or no YAML mapping, no notebook has a name in it, or a value is not allowed.
    """
    path = Path(path).expanduser()
    if not path.name:
        raise ValueError("no parameter file is named: give one such as params/quick.yaml")
    values = read_mapping(path, "parameter file", "epochs: 5")
    committed = {name: value for notebook in NOTEBOOKS for name, value in defaults(notebook).items()}
    known = committed.keys() | set(extra)
    if unknown := sorted(map(str, values.keys() - known)):
        raise ValueError(
            f"{path}: no notebook has a parameter {', '.join(unknown)}. {removed_hint(unknown)}There are: "
            + ", ".join(sorted(known))
        )
    values = {"run_name": re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "run", **values}
    own = {name: value for name, value in values.items() if name not in extra}
    check_parameters({**committed, "run_name": "run", **own})  # what fits no default is told before a kernel starts
    return values | check_parameters(own)


def defaults(notebook):
    """Return a notebook's declared parameters with their committed values, as papermill sees them, a dict.

    Args:
        notebook (str or Path): A path, or the name of one of ours without ".ipynb".

    Raises:
        ValueError: It is no notebook of Python, or a default is no plain value.
    """
    path = notebook if isinstance(notebook, Path) else FOLDER / f"{notebook}.ipynb"
    values = {}
    for name, found in papermill.inspect_notebook(_python_notebook(path)).items():
        try:
            values[name] = ast.literal_eval(found["default"])
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(
                f"{path}: the parameter {name} = {found['default']}: allowed is a plain value such as 5, 'text' or "
                "[1, 2]; compute from it in a later cell"
            ) from error
    return values


def _python_notebook(path):
    """Read a notebook as one of Python, whichever kernel its metadata name, and where they name none."""
    try:
        notebook = nbformat.read(path, as_version=4)
        language = notebook.metadata.get("kernelspec", {}).get("language", "python")
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        raise ValueError(f"{path}: cannot be read as a notebook: {' '.join(str(error).split())[:200]}") from error
    language = notebook.metadata.get("language_info", {}).get("name", language)
    if language.lower() not in ("python", "ipython"):
        raise ValueError(f"{path}: the notebook's language is {language}: allowed is Python")
    notebook.metadata = {"kernelspec": {"name": KERNEL, "display_name": "Python 3", "language": "python"}}
    return notebook


def run_all(values, runs_dir=None):
    """Execute the notebooks in order, skipping what is complete, and write report.html.

    Args:
        values (dict): Checked parameters.
        runs_dir (str, Path or None): The folder of all runs, instead of the parameter of that name.

    Returns:
        Path: The run's folder.

    Raises:
        RunError, PapermillExecutionError: A notebook failed; what was finished stays.
    """
    values = {**values, "runs_dir": str(runs_dir or values.get("runs_dir", "runs"))}
    folder = runs.runs_folder(values["runs_dir"]) / values["run_name"]
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    skipped = 0
    for number, notebook in enumerate(NOTEBOOKS, start=1):
        output = folder / "notebooks" / f"{notebook}.ipynb"
        parameters = {name: value for name, value in values.items() if name in defaults(notebook)}
        title = f"[{number}/{len(NOTEBOOKS)}] {notebook}"
        reason = why_to_run(notebook, parameters, output, folder)
        if not reason:
            print(f"{title}: complete, made by the same notebook, parameters and code: skipped")
            skipped += 1
            continue
        if output.is_file():
            print(f"{title}: runs again, {reason}")
        execute(notebook, parameters, output, title)
    if skipped == len(NOTEBOOKS):
        print(f"Nothing was left to do. To run it again, delete {_display_path(folder)} or choose another run_name.")
    write_report(folder)
    return folder


def why_to_run(notebook, parameters, output, folder):
    """Say why a notebook has to be executed; "" when `output` is it, by the same parameters and code, with its results.

    Args:
        notebook (str): Its name, without ".ipynb".
        parameters (dict): Those that it gets.
        output (Path): Where the executed notebook would be.
        folder (Path): The run's folder.
    """
    try:
        done = nbformat.read(output, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError):  # cut short by a kill: it will be written again
        return "since there is no whole notebook of an earlier time"
    facts = done.metadata.get("papermill", {})
    if not facts.get("end_time") or facts.get("exception"):
        return "since it did not come to its end"
    if notebook in RESULTS and not (folder / RESULTS[notebook]).is_file():
        return f"since {RESULTS[notebook]} is not there"
    if facts.get("parameters") != parameters:
        return "since its parameters have changed"
    if _sources(done) != _sources(nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4)):
        return "since the notebook has changed"
    if done.metadata.get("fmnist_utils") != _code_of(notebook):
        return "since the package's code has changed"
    return ""


def _code_of(notebook):
    """Return a hash of the code that a notebook depends on: 03 on what trains, others on all but the headless tools."""
    return code_hash() if notebook == TRAINING else code_hash(set(all_files()) - set(HEADLESS))


def _sources(notebook):
    return [cell.source for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def execute(notebook, parameters, output, title):
    """Execute one notebook, with a bar over its cells and the epochs' lines above the bar."""
    code = _code_of(notebook)
    bar = {
        "desc": title,
        "bar_format": "{desc}: {n_fmt}/{total_fmt} cells |{bar:20}| {elapsed}",
        "mininterval": 0.1 if sys.stderr.isatty() else 60,  # a log wants few lines
    }
    source = FOLDER / f"{notebook}.ipynb"
    execute_notebook(source, output, parameters, cwd=FOLDER, progress_bar=bar, stdout_file=_EpochLines())
    done = json.loads(output.read_text(encoding=UTF8))
    done["metadata"]["fmnist_utils"] = code
    write_text(output, json.dumps(done, indent=1, ensure_ascii=False) + "\n")


def execute_notebook(source, output, parameters, **options):
    """Execute a notebook with papermill, in a kernel of this Python whatever its metadata say, with pictures."""
    os.environ.pop("MPLBACKEND", None)  # or the kernel would draw no pictures
    papermill.execute_notebook(
        source, output, parameters, kernel_name=KERNEL, language="python", extra_arguments=QUIET_KERNEL, **options
    )


class _EpochLines:
    """A text stream that shows only what a training tells, without tearing the progress bar."""

    def write(self, text):
        for line in text.splitlines():
            if re.match(r"epoch +\d+/|going on |the code that trains |the loss is not a number ", line):
                tqdm.write(f"      {line}")

    def flush(self):
        """Do nothing: each line is shown at once."""


def write_report(folder):
    """Join the executed notebooks into folder/report.html, one page that opens without a network."""
    parts = [nbformat.read(path, as_version=4) for path in sorted((folder / "notebooks").glob("*.ipynb"))]
    report = nbformat.v4.new_notebook(metadata=parts[0].metadata)
    for number, part in enumerate(parts):
        for cell in part.cells:
            cell.id = f"n{number}-{cell.id}"[:64]  # the notebooks share ids such as `imports`
            report.cells.append(cell)
    title = {"metadata": {"name": f"Fashion-MNIST: the run {folder.name}"}}
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(report, resources=title)
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)  # they would be fetched from the network
    write_text(folder / "report.html", page)


def print_table(folder):
    """Print what the run reached, how long each notebook took, and where everything is."""
    run = runs.find(folder.name, folder.parent)
    metrics, test = runs.read_metrics(run), runs.read_metrics(run, runs.TEST_METRICS)
    print(f"\nRun {run.name}: {metrics['model_parameters']:,} parameters, seed {metrics['seed']}")
    kept = f"epoch {metrics['best_epoch']} of {metrics['epochs_run']} kept"
    interval = f"95 % interval {test['test_accuracy_low']:.2%} to {test['test_accuracy_high']:.2%}"
    print(f"  validation accuracy   {metrics['val_accuracy']:.2%}, {kept}")
    print(f"  test accuracy         {test['test_accuracy']:.2%}, {interval}")
    print(f"  training              {metrics['train_seconds']:.0f} s, {metrics['images_per_second']:,.0f} images/s")
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        seconds = nbformat.read(path, as_version=4).metadata.papermill.duration
        print(f"  {path.stem:32s}{seconds:6.0f} s")
    print(f"  report                {_display_path(folder / 'report.html')}")
    print(f"  results               {_display_path(folder)}")


def _display_path(path):
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def escape_in_streams():
    """Let stdout and stderr escape what they cannot encode: an old terminal or a log must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")


def main():
    """Parse the command line, run, and end with a table; exit 1 with one clear message when something fails."""
    parser = argparse.ArgumentParser(prog="python -m fmnist_utils.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("parameters", nargs="?", default="params/quick.yaml", help="default: params/quick.yaml")
    parser.add_argument("--runs-dir", help="folder for run folders (default: runs/ in the project)")
    arguments = parser.parse_args()
    escape_in_streams()
    try:
        folder = run_all(read_parameters(arguments.parameters), arguments.runs_dir)
        print_table(folder)
    except PapermillExecutionError as error:
        sys.exit(
            f"\nThe notebook failed in cell [{error.exec_count}]: {error.ename}: {error.evalue}\n"
            "It is kept, with the error, in the run's folder, under notebooks/."
        )
    except DeadKernelError:
        sys.exit(
            "\nThe notebook's kernel died: killed from outside, or for want of memory. Finished epochs are kept: "
            "the same command goes on."
        )
    except (ValueError, RuntimeError) as error:  # a RunError; a kernel that did not come up
        sys.exit(f"\n{error}")
    except OSError as error:
        sys.exit(f"\n{error}. Make room or make it writable, or name another folder with --runs-dir, and run again.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from the last finished epoch.")


if __name__ == "__main__":
    main()
