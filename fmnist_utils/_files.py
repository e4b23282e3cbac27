"""Files that are written whole or not at all, and read with an error that says which file is damaged."""

import json
import os
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

UTF8 = "utf-8"  # said at every read and write: Windows and old terminals have other defaults
READ_ERRORS = (OSError, ValueError, TypeError, KeyError, EOFError, yaml.YAMLError, zipfile.BadZipFile, zlib.error)


class RunError(RuntimeError):
    """A run folder is not in the state that was asked for; the message says what to do."""


@contextmanager
def atomic_write(path):
    """Yield a temporary path beside `path`; rename it there when the body succeeds, remove it when it fails."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())  # or a power cut could leave a renamed, empty file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding=UTF8)


def write_json(path, content):
    """Write `content` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_npz(path, **arrays):
    """Write named arrays as a compressed .npz, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_yaml(path):
    """Return the content of a YAML file."""
    return yaml.safe_load(Path(path).read_text(encoding=UTF8))


def read_mapping(path, kind, example):
    """Return the content of a user's YAML file, a dict.

    Args:
        path (str or Path): The file.
        kind (str): What it is called in messages.
        example (str): A line that such a file may hold.

    Raises:
        ValueError: It cannot be read, or holds no mapping.
    """
    try:
        content = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the {kind} {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the {kind} {path} must hold lines such as `{example}`")
    return content


@contextmanager
def run_file_errors(path):
    """Turn whatever a damaged or foreign file of a run makes its reader raise into a RunError that names the file."""
    try:
        yield
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{path.name} of the run {path.parent.name!r} is damaged ({reason}). Delete the run's folder and train it "
            "again."
        ) from error
