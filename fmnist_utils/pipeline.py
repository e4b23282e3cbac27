"""Run notebooks 01 to 04 headless with one parameter file: `python -m fmnist_utils.pipeline params/quick.yaml`.

The executed notebooks, figures and an HTML report land in the run's folder. What is complete is not run again.
"""

import argparse
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

NOTEBOOKS = ("01_data_exploration", "02_model", "03_training", "04_evaluation_and_visualization")
FOLDER = runs.ROOT / "notebooks"
QUIET_KERNEL = ["--log-level=50"]  # its notices are not for the terminal; errors stand in the notebook


def read_parameters(path):
    """Read a parameter file and check it against all notebooks; return its values, run_name included.

    run_name defaults to the file's name. Raises ValueError when the file is missing or no YAML mapping, when no
    notebook declares a name in it, or when a value is not allowed.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the parameter file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"the parameter file {path} must hold lines such as `epochs: 5`")
    known = {name for notebook in NOTEBOOKS for name in declared(notebook)}
    if unknown := sorted(map(str, values.keys() - known)):
        raise ValueError(
            f"{path}: no notebook has a parameter {', '.join(unknown)}. {runs.removed_hint(unknown)}There are: "
            + ", ".join(sorted(known))
        )
    return runs.check_parameters({"run_name": path.stem, **values})


def declared(notebook):
    """Return the names of the notebook's parameters, as papermill sees them."""
    return papermill.inspect_notebook(FOLDER / f"{notebook}.ipynb").keys()


def run_all(values, runs_dir=None):
    """Execute the notebooks in order, skipping what is complete, and write report.html; return the run's folder.

    values: checked parameters. Raises RunError or PapermillExecutionError when a notebook fails; what was finished
    stays.
    """
    values = {**values, "runs_dir": str(runs_dir or values.get("runs_dir", "runs"))}
    folder = runs.runs_folder(values["runs_dir"]) / values["run_name"]
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    for number, notebook in enumerate(NOTEBOOKS, start=1):
        output = folder / "notebooks" / f"{notebook}.ipynb"
        parameters = {name: value for name, value in values.items() if name in declared(notebook)}
        if is_done(notebook, parameters, output, folder):
            print(f"[{number}/{len(NOTEBOOKS)}] {notebook}: complete, skipped")
        else:
            execute(notebook, parameters, output, f"[{number}/{len(NOTEBOOKS)}] {notebook}")
    write_report(folder)
    return folder


def is_done(notebook, parameters, output, folder):
    """Tell whether `output` holds this notebook, executed to its end with these parameters, and its results exist."""
    wanted = {"03": runs.METRICS, "04": runs.TEST_METRICS}.get(notebook[:2])
    if not output.is_file() or (wanted and not (folder / wanted).is_file()):
        return False
    try:
        done = nbformat.read(output, as_version=4)
    except (ValueError, nbformat.ValidationError):  # cut short by a kill: it will be written again
        return False
    facts = done.metadata.get("papermill", {})
    complete = facts.get("end_time") and not facts.get("exception") and facts.get("parameters") == parameters
    return bool(complete) and _sources(done) == _sources(nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4))


def _sources(notebook):
    return [cell.source for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def execute(notebook, parameters, output, title):
    """Execute one notebook with papermill, with a bar over its cells and the epochs' lines above the bar."""
    papermill.execute_notebook(
        FOLDER / f"{notebook}.ipynb",
        output,
        parameters,
        cwd=FOLDER,
        progress_bar={
            "desc": title,
            "bar_format": "{desc}: {n_fmt}/{total_fmt} cells |{bar:20}| {elapsed}",
            "mininterval": 0.1 if sys.stderr.isatty() else 60,  # a log wants few lines
        },
        stdout_file=_EpochLines(),
        extra_arguments=QUIET_KERNEL,
    )


class _EpochLines:
    """A text stream that shows only the lines of training epochs, without tearing the progress bar."""

    def write(self, text):
        for line in text.splitlines():
            if re.match(r"epoch +\d+/|going on ", line):
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
    with runs.written_whole(folder / "report.html") as temporary:
        temporary.write_text(page)


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
    print(f"  report                {_shown(folder / 'report.html')}")
    print(f"  results               {_shown(folder)}")


def _shown(path):
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main():
    """Parse the command line, run, and end with a table; exit 1 with one clear message when something fails."""
    parser = argparse.ArgumentParser(prog="python -m fmnist_utils.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("parameters", nargs="?", default="params/quick.yaml", help="default: params/quick.yaml")
    parser.add_argument("--runs-dir", help="folder for run folders (default: runs/ in the project)")
    arguments = parser.parse_args()
    try:
        folder = run_all(read_parameters(arguments.parameters), arguments.runs_dir)
        print_table(folder)
    except PapermillExecutionError as error:
        sys.exit(
            f"\nThe notebook failed in cell [{error.exec_count}]: {error.ename}: {error.evalue}\n"
            "It is kept, with the error, in the run's folder, under notebooks/."
        )
    except (ValueError, runs.RunError) as error:
        sys.exit(f"\n{error}")
    except OSError as error:
        sys.exit(f"\n{error}. Make room or make it writable, or name another folder with --runs-dir, and run again.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from the last finished epoch.")


if __name__ == "__main__":
    main()
