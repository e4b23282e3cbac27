"""Which files belong to the project: tests look at these, and not at what a user makes beside them."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = (  # where there is no repository, as in an unpacked archive
    "notebooks/[0-9][0-9]_*[a-z].ipynb",
    "notebooks/solutions/[0-9][0-9]_*[a-z].ipynb", "notebooks/solutions/find_the_leak.ipynb",
    "notebooks/exercises/[0-9][0-9]_*[a-z].ipynb", "notebooks/exercises/find_the_leak.ipynb",
    "params/full.yaml", "params/quick.yaml", "params/record.yaml", "lessons/*/*.*", "fmnist_utils/*.py",
    "sweeps/ablation.yaml", "sweeps/learning_rate.yaml", "sweeps/seeds.yaml",
    "tests/*.py", "tools/*.py", "benchmarks/*.py", "conftest.py",
)  # fmt: skip


def shipped(pattern, root=ROOT):
    """Return the project's own files that match a pattern such as "params/*.yaml", sorted; "*" stops at a slash."""
    return [path for path in sorted(root.glob(pattern)) if path in _all_shipped(root)]


@cache
def _all_shipped(root):
    git = ["git", "-C", root, "ls-files", "-z"]
    try:
        known = subprocess.run([*git, "--error-unmatch", "tests/shipped.py"], capture_output=True).returncode == 0
        if known:  # else there is no repository, or it is another project's
            listed = subprocess.run(git, capture_output=True, check=True).stdout.decode("utf-8")
            return {root / name for name in listed.split("\0")}
    except OSError:  # no git
        pass
    return {path for name in NAMES for path in root.glob(name)}
