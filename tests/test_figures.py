"""What strict nbval lets pass in a notebook's outputs, and what it does not; the caller's IPython has no say."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from figures import alike, complaint

STORED = "61 % of 1,000 images\n[-0.0004  0.9319] loss 2.7e-05, Shirt −8.7%\n"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [("0.9319", "0.9320", True), ("0.9319", "0.9317", False), ("[-0.0004", "[ 0.0001", False),
     ("2.7e-05", "2.8e-05", True), ("2.7e-05", "2.7e-04", False), ("−8.7%", "-8.6%", True), ("−8.7%", "8.7%", False),
     ("61 %", "62 %", True), ("61 %", "63 %", False), ("1,000", "1,001", False), ("0.9319", "nan", False),
     ("Shirt", "Coat", False)],
)  # fmt: skip
def test_text(old, new, same):
    assert alike(STORED, STORED.replace(old, new)) is same


def test_figure():
    stored = np.ones((40, 60, 3))
    line = stored.copy()
    line[20] = 0
    assert not complaint([stored], [stored * 0.99])
    assert complaint([stored], [line]) and complaint([stored], []) and complaint([stored], [stored[:-1]])


def test_nbval(tmp_path):
    """A digit that is off by one passes and a word does not; a profile of the caller's is not read."""
    profile = tmp_path / "profile_default" / "ipython_config.py"
    profile.parent.mkdir()
    profile.write_text('c.InteractiveShellApp.exec_lines = ["profile = 1"]\n', encoding="utf-8")
    notebook = nbformat.v4.new_notebook()
    for source, text in (("0.25", "0.26"), ("'profile' in dir()", "False"), ("'word'", "'other'")):
        output = nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=1)
        notebook.cells.append(nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output]))
    nbformat.write(notebook, tmp_path / "n.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "conftest", "-p", "no:cacheprovider", "n.ipynb"]
    environment = os.environ | {"IPYTHONDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert "1 failed, 2 passed" in done.stdout and "::Cell 2 " in done.stdout, done.stdout + done.stderr
