"""For all tests, the notebooks' own under nbval too: no run of a user's is touched, and 04 evaluates the reference.

The caller's settings of colour, width, plotting and IPython would change outputs; they are set aside.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).with_name(name)) for name in ("tests", "tools")]
pytest_plugins = ["figures"]  # under nbval, how numbers and figures are compared with the stored ones

_folder = tempfile.TemporaryDirectory(prefix="fmnist-tests-", ignore_cleanup_errors=True)  # a kernel may still write
os.environ |= {"FMNIST_RUNS_DIR": _folder.name, "FMNIST_DEFAULT_RUN": "reference", "COLUMNS": "80"}
os.environ["IPYTHONDIR"] = os.path.join(_folder.name, "ipython")
os.environ["MATPLOTLIBRC"] = os.path.join(_folder.name, "matplotlibrc")  # an empty one, not a user's
Path(os.environ["MATPLOTLIBRC"]).touch()
for _name in ("JPY_SESSION_NAME", "MPLBACKEND", "NO_COLOR", "FORCE_COLOR", "PYTHONWARNINGS"):
    os.environ.pop(_name, None)
if not os.access(os.path.expanduser("~"), os.W_OK):  # Jupyter, IPython and matplotlib want to write there
    os.environ["HOME"] = _folder.name


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Keep the cells of a notebook in one process."""
    if getattr(config.option, "nbval", False) and getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadscope"


def pytest_unconfigure():
    """Remove the folder of the tests' runs."""
    _folder.cleanup()
