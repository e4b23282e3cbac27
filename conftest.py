"""For all tests, the notebooks' own under nbval too: no run of a user's is touched, and 04 judges the reference."""

import os
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="fmnist-tests-")
os.environ["FMNIST_RUNS_DIR"] = _folder.name
os.environ["FMNIST_DEFAULT_RUN"] = "reference"
os.environ.pop("JPY_SESSION_NAME", None)


def pytest_unconfigure():
    _folder.cleanup()
