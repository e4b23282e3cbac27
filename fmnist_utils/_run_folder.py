"""The mechanics of a run folder: its files, its lock, and the one step in which a finished training becomes the run.

While a run trains, everything is in its .work folder; when it is done, the files move up and metrics.json comes last.
"""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from fmnist_utils._environment import code_hash
from fmnist_utils._files import UTF8, RunError, atomic_write, read_yaml, run_file_errors
from fmnist_utils.parameters import removed_hint

PACKAGE = Path(__file__).resolve().parent
INSTALLED_ALONE = not (PACKAGE.parent / "notebooks").is_dir()  # by pip, without the project around it, as in Colab
ROOT = Path.cwd() if INSTALLED_ALONE else PACKAGE.parent  # relative paths count from here
SHIPPED = PACKAGE / "_shipped" if INSTALLED_ALONE else ROOT  # reference, lessons, sweeps/results: see pyproject.toml
REFERENCE = SHIPPED / "reference"  # a small run that ships with the project, so that 04 can be opened at once

PARAMS, METRICS, MODEL, HISTORY = "params.yaml", "metrics.json", "model.keras", "history.csv"
VALIDATION, ENVIRONMENT, CHECKPOINT = "validation.npz", "environment.json", "checkpoint.npz"
TEST, TEST_METRICS = "test.npz", "test_metrics.json"
FINAL_FILES = (PARAMS, MODEL, HISTORY, VALIDATION, ENVIRONMENT, METRICS)  # metrics last: it makes a run complete
COMMIT_MARKER = "ready"  # in .work: everything is written and only has to move up


@dataclass
class Run:
    """A run folder.

    Attributes:
        folder (Path): The folder itself.
        params (dict): The parameters that the run was started with.
        lock (FileLock or None): Held while the run is being written.
    """

    folder: Path
    params: dict
    lock: FileLock | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def work_dir(self) -> Path:
        """Where an unfinished training writes."""
        return self.folder / ".work"

    @property
    def display_path(self) -> Path:
        """The folder, relative to the project; its name alone where it lies elsewhere, so that no output tells where.

        In full where there is no project.
        """
        if INSTALLED_ALONE:
            return self.folder
        return self.folder.relative_to(ROOT) if self.folder.is_relative_to(ROOT) else Path(self.folder.name)


def project_path(path):
    """Return where a path leads that counts from the project's folder.

    Where only the package is installed, it counts from the working directory; what is not there may be one of the
    files that come with the package, such as "lessons/out_of_fold.npz".

    Args:
        path (str or Path): "~" is the home folder; an absolute path stays.

    Returns:
        Path
    """
    path = Path(path).expanduser()
    return SHIPPED / path if not (ROOT / path).exists() and (SHIPPED / path).exists() else ROOT / path


def cannot_write(folder, error):
    """Make the RunError of a folder that the system refuses to write, from its OSError."""
    return RunError(
        f"cannot write the run folder {folder}: {error}. Choose another folder in the parameter runs_dir or in the "
        "environment variable FMNIST_RUNS_DIR, or make room."
    )


def acquire_lock(folder):
    """Lock a run folder, which is made; a RunError where another process holds it. Returns the FileLock."""
    try:
        (folder / ".work").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"another process is writing the run {folder.name!r} now. Wait for it, stop it (a notebook's kernel keeps "
            "its run until it has finished or is shut down), or choose another run_name."
        ) from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    return lock


def refuse_other_parameters(run):
    """Raise a RunError where the folder holds a run, complete or not, of other parameters."""
    for path in (run.work_dir / PARAMS, run.folder / PARAMS):
        if not path.exists():
            continue
        with run_file_errors(path):
            old = dict(read_yaml(path))
        if old != run.params:
            changed = [
                f"{n}: {old.get(n)!r} there, {run.params.get(n)!r} now"
                for n in {**old, **run.params}
                if old.get(n) != run.params.get(n)
            ]
            raise RunError(
                f"the run {run.name!r} was made with other parameters ({'; '.join(changed)}). {removed_hint(old)}"
                f"Choose another run_name, or delete its folder {run.folder}."
            )


def drop_checkpoint_of_other_code(run):
    """Delete the checkpoint of an interrupted training where the code that trains has changed since, and say so."""
    if not (run.work_dir / CHECKPOINT).exists():
        return
    old = None
    with suppress(OSError, ValueError, AttributeError):
        old = json.loads((run.work_dir / ENVIRONMENT).read_text(encoding=UTF8)).get("code_hash")
    if old != code_hash():
        (run.work_dir / CHECKPOINT).unlink()
        print("the code that trains has changed since this run was interrupted: it starts afresh")


def commit(run):
    """Move a finished training up, or go on moving where an earlier process was stopped; else do nothing."""
    if not (run.work_dir / COMMIT_MARKER).exists():
        return
    if (run.work_dir / METRICS).exists():  # nothing of an older run may seem to belong to the new one
        for name in (METRICS, TEST, TEST_METRICS):
            (run.folder / name).unlink(missing_ok=True)
        shutil.rmtree(run.folder / "figures", ignore_errors=True)
    (run.work_dir / CHECKPOINT).unlink(missing_ok=True)  # or a training afresh could go on from it
    for name in FINAL_FILES:
        with suppress(FileNotFoundError):  # moved already, before the interruption
            os.replace(run.work_dir / name, run.folder / name)
    shutil.rmtree(run.work_dir)


def newest(parent):
    """Return the name of the complete run that was finished last in the folder of all runs, else the reference's."""
    complete = sorted(parent.glob(f"*/{METRICS}"), key=lambda path: path.stat().st_mtime)
    return complete[-1].parent.name if complete else REFERENCE.name


def copy_reference(folder):
    """Copy the reference run into a folder."""
    if not REFERENCE.is_dir():  # where only the package is installed
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sources = [path for path in REFERENCE.iterdir() if path.is_file()]
        for source in sorted(sources, key=lambda path: path.name == METRICS):  # metrics last: it makes a run complete
            with atomic_write(folder / source.name) as temporary:
                shutil.copyfile(source, temporary)  # without its modes, which in a shared project may be read-only
        times = (REFERENCE / METRICS).stat()
        os.utime(folder / METRICS, (times.st_atime, times.st_mtime))  # or it would seem the newest run
    except OSError as error:
        raise cannot_write(folder, error) from error
