"""Are the notebook tests steady? Strict nbval again and again, two at a time, so that each loads the other's machine.

python tests/flakiness.py [ROUNDS]    (10 rounds are 20 runs)

Of each pair one run has TensorFlow's own number of threads and the other has one. A row a run goes into
benchmarks/results/nbval_steady.csv; the last line is `green N of N`, the exit status 1 where a run was not.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "nbval_steady.csv"
NOTEBOOKS = sorted(str(path) for path in (ROOT / "notebooks").glob("*.ipynb"))
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-cell-timeout=1200"]


def begin(threads):
    one = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"} if threads == "1" else {}
    return subprocess.Popen(
        [*COMMAND, *NOTEBOOKS],
        cwd=ROOT,
        env=os.environ | one,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def main(rounds):
    rows = []
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, encoding="utf-8")
    for number in range(1, rounds + 1):
        start = time.monotonic()
        pair = {threads: begin(threads) for threads in ("own", "1")}
        shown = {threads: process.communicate()[0] for threads, process in pair.items()}
        seconds = round(time.monotonic() - start)  # of the pair
        for threads, process in pair.items():
            passed = int((re.search(r"(\d+) passed", shown[threads]) or [0, 0])[1])
            rows.append((number, threads, process.returncode == 0, passed, seconds, commit.stdout.strip()))
            print(*rows[-1], flush=True)
            if process.returncode:
                print(shown[threads][-4000:], flush=True)
        columns = ["round", "threads", "green", "cells", "seconds", "commit"]
        pd.DataFrame(rows, columns=columns).to_csv(RESULTS, index=False)
    green = sum(row[2] for row in rows)
    print(f"green {green} of {len(rows)}")
    sys.exit(green < len(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
