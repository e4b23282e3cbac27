"""Fixtures that several test files share."""

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from fmnist_utils import _environment


@pytest.fixture
def hold_lock():
    """A function that lets another process hold a file's lock; it returns the process, for the test to kill."""
    with ExitStack() as holders:

        def hold(path):
            code = "import sys, filelock as f; key = f.FileLock(sys.argv[1]); key.acquire(); print(); sys.stdin.read()"
            words = [sys.executable, "-uc", code, path]
            holder = holders.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert holder.stdout.readline()
            return holder

        yield hold


@pytest.fixture
def edit_package(monkeypatch):
    """A function that adds a line to a module, as the code hash sees it."""
    sources = _environment.SOURCES
    return lambda name: monkeypatch.setitem(sources, name, sources[name] + "\nEDITED = 1")


@pytest.fixture(scope="session")
def odd_environment():
    """An environment with an 8-bit code page, as on Windows, and the caller's own settings of plots and colour."""
    return os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "MPLBACKEND": "Agg", "NO_COLOR": "1"}
