"""Fixtures that several test files share."""

import os
import shutil
import subprocess
import sys

import pytest

from fmnist_utils import _environment

HOLD = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold_lock():
    """A function that lets another process hold a file's lock; it returns the process, for the test to kill."""
    holders = []

    def hold(path):
        command = [sys.executable, "-c", HOLD, path]
        holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert holders[-1].stdout.readline() == b"held\n"
        return holders[-1]

    yield hold
    for holder in holders:
        holder.kill()
        holder.communicate()


@pytest.fixture
def edit_package(tmp_path, monkeypatch):
    """A function that edits a module of the package, as the code hash sees it: in a copy."""
    copy = tmp_path / "edited_package"
    shutil.copytree(_environment.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_environment, "PACKAGE", copy)

    def edit(module):
        with (copy / module).open("a", encoding="utf-8") as file:
            file.write("# an edit\n")

    return edit


@pytest.fixture(scope="session")
def odd_environment():
    """An environment with an 8-bit code page, as on Windows, and the caller's own settings of plots and colour."""
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "MPLBACKEND": "Agg", "NO_COLOR": "1"}
    return {**os.environ, **settings}
