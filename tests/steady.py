"""Are the notebooks' tests green on every processor? Strict nbval under settings that stand in for other processors.

python tests/steady.py    (half an hour and more on two cores)

A row for each setting goes into benchmarks/results/nbval_steady.csv. The last line is `green N of N`; the exit status
is 1 where a setting was not green.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from fmnist_utils._environment import _commit, _cpu, cores, thread_settings

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(str(path) for path in (ROOT / "notebooks").glob("*.ipynb"))
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-cell-timeout=1200"]
COMMAND += ["-n", "2", *NOTEBOOKS]
SETTINGS = {
    "own": {},
    "without oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "1 thread": thread_settings(1),
    "4 threads": thread_settings(4),
}


def main():
    rows = []
    for name, setting in SETTINGS.items():
        start = time.monotonic()
        done = subprocess.run(COMMAND, cwd=ROOT, env=os.environ | setting, capture_output=True, encoding="utf-8")
        passed = re.search(r"(\d+) passed", done.stdout)
        rows.append((name, done.returncode == 0, int(passed[1]) if passed else 0, round(time.monotonic() - start)))
        print("{}: green {}, {} cells passed, {} s".format(*rows[-1]), flush=True)
        if done.returncode:
            print(done.stdout[-4000:], done.stderr, flush=True)
    machine = {"cpu": _cpu(), "cores": cores(), "commit": _commit()}
    frame = pd.DataFrame(rows, columns=["setting", "green", "cells", "seconds"]).assign(**machine)
    frame.to_csv(ROOT / "benchmarks" / "results" / "nbval_steady.csv", index=False)
    green = sum(row[1] for row in rows)
    print(f"green {green} of {len(rows)}")
    sys.exit(green < len(rows))


if __name__ == "__main__":
    main()
