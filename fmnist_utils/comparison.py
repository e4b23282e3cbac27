"""Comparing runs: a folder of runs as one frame, averages over seeds, and tests of two runs on the same images."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.stats import binomtest, t

from fmnist_utils import runs

TABLE, PREDICTIONS = "runs.csv", "predictions.npz"  # a folder of runs packed into two small files
BASE = "base"  # the setting that the others depart from


def read_runs(folder):
    """Return a frame, a row a complete run, by the run folder's name: parameters, metrics, cpu, threads and setting.

    folder: path of a folder of run folders, or of the two files that `pack` wrote. setting tells in words what sets
    the run apart, seeds aside: the parameters that are not at their most frequent value; BASE where all are. A
    parameter without one most frequent value is always told. Of runs with the same parameters and seed, as from two
    versions of the code, the newest counts. Raises RunError when no complete run is there.
    """
    folder = Path(folder)
    if (folder / TABLE).is_file():
        table = pd.read_csv(folder / TABLE, dtype={"run": str}, index_col="run")
    else:
        newest_last = sorted(folder.glob(f"[!.]*/{runs.METRICS}"), key=lambda path: path.stat().st_mtime)
        rows = {path.parent.name: _row(path.parent) for path in newest_last}
        if not rows:
            raise runs.RunError(f"no complete run is in {folder}. Make some with `make sweep`, or name another folder.")
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
        asked = [name for name in table if name in runs.RULES and name != "run_name"]
        table = table.drop_duplicates(asked, keep="last").sort_index()
    usual = _usual(table)
    apart = [
        ", ".join(f"{name} = {_shown(row[name])}" for name in varied(table) if row[name] != usual[name]) or BASE
        for _, row in table.iterrows()
    ]
    return table.assign(setting=apart)


def _row(folder):
    with runs.reading(folder / runs.PARAMS):
        params = dict(yaml.safe_load((folder / runs.PARAMS).read_text()))
    run = runs.Run(folder, params)
    metrics, machine = (runs.read_metrics(run, name) for name in (runs.METRICS, runs.ENVIRONMENT))
    params = {name: str(value) if isinstance(value, list) else value for name, value in params.items()}
    return {**params, **metrics, "cpu": machine["cpu"], "threads": machine["threads"]}


def varied(table):
    """Return the names of the parameters that differ between the runs of `table`; run_name and seed do not count."""
    names = [name for name in table if name in runs.RULES and name not in ("run_name", "seed")]
    return [name for name in names if len(table[name].unique()) > 1]


def _usual(table):
    """Return {varied parameter: its most frequent value, None when two are as frequent}."""
    modes = {name: table[name].mode() for name in varied(table)}
    return {name: mode[0] if len(mode) == 1 else None for name, mode in modes.items()}


def _shown(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def effect_of(table, name):
    """Return the rows of `table` that show what the parameter `name` does: all other parameters at their usual value.

    Where that leaves one value of `name` only, as in a full or a random grid, these are all rows.
    """
    others = {other: value for other, value in _usual(table).items() if other != name and value is not None}
    rows = table[np.all([table[other] == value for other, value in others.items()] or [table[name].notna()], axis=0)]
    return rows if len(rows[name].unique()) > 1 else table


def mean_interval(values):
    """Return (mean, standard deviation, low, high) of a sample, with Student's 95 % interval of the mean.

    values: (n,), say the accuracies of n seeds. Deviation and interval are nan for n = 1. The interval takes the values
    for independent and roughly normal.
    """
    values = np.asarray(values, dtype=float)
    mean, n = values.mean(), len(values)
    if n < 2:
        return mean, np.nan, np.nan, np.nan
    std = values.std(ddof=1)
    half = t.ppf(0.975, n - 1) * std / np.sqrt(n)
    return mean, std, mean - half, mean + half


def leaderboard(table, metric="val_accuracy"):
    """Return a frame, a row a setting, the best mean first: runs, mean, std, low, high, seconds (median training)."""
    rows = {}
    for setting, group in table.groupby("setting"):
        numbers = dict(zip(("mean", "std", "low", "high"), mean_interval(group[metric]), strict=True))
        rows[setting] = {"runs": len(group), **numbers, "seconds": group["train_seconds"].median()}
    board = pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")
    return board.sort_values("mean", ascending=False)


def differences(table, baseline, metric="val_accuracy"):
    """Compare every setting with one of them, seed by seed: what is gained or lost, and how sure that is.

    Returns a frame, a row a setting but the baseline, the lowest mean first: seeds that both have, mean difference of
    the metric, std, low, high (see `mean_interval`). Pairing by seed takes out what both owe to the same start.
    Raises ValueError when no run has the baseline's setting.
    """
    if baseline not in set(table["setting"]):
        known = "; ".join(sorted(table["setting"].unique()))
        raise ValueError(f"baseline = {baseline!r}: no run has that setting. There are: {known}")
    by_seed = table.pivot_table(index="seed", columns="setting", values=metric)
    rows = {}
    for setting in by_seed.columns.drop(baseline):
        paired = (by_seed[setting] - by_seed[baseline]).dropna()
        if len(paired):
            numbers = dict(zip(("mean", "std", "low", "high"), mean_interval(paired), strict=True))
            rows[setting] = {"seeds": len(paired), **numbers}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["seeds", "mean", "std", "low", "high"])
    return frame.rename_axis("setting").sort_values("mean")


def on_pareto_front(seconds, accuracy):
    """Tell for each point whether no other is at least as fast and as accurate, and better in one. (n,) bool."""
    seconds, accuracy = np.asarray(seconds), np.asarray(accuracy)
    no_worse = (seconds[:, None] <= seconds) & (accuracy[:, None] >= accuracy)
    better = (seconds[:, None] < seconds) | (accuracy[:, None] > accuracy)
    return ~(no_worse & better).any(axis=0)


# ---------------------------------------------------------------------------------------------- image by image


def read_correct(folder, names, images="validation"):
    """Return a bool frame, a row an image, a column a run of `names`: was the image answered correctly?

    images: "validation"; or "test", for which 04 must have judged each of the runs. Raises RunError when a run has no
    such predictions, or when two runs were judged on different images.
    """
    folder, correct, asked = Path(folder), {}, None
    for name in names:
        index, label, guess = _predictions(folder, name, images)
        if asked is not None and not np.array_equal(index, asked):
            raise runs.RunError(
                f"the runs {', '.join(names)} were judged on different images: compare runs of one split_seed and one "
                "validation_fraction."
            )
        correct[name], asked = guess == label, index
    return pd.DataFrame(correct, index=pd.Index(asked, name="image"))


def _predictions(folder, name, images):
    """Return what one run was asked and answered: image numbers, true classes and predicted classes, (n,) each."""
    packed, path = folder / PREDICTIONS, folder / name / (runs.VALIDATION if images == "validation" else runs.TEST)
    if packed.is_file() and images == "validation":
        with np.load(packed) as file:
            if name in file:
                return file["index"], file["label"], file[name]
    elif path.is_file():
        with runs.reading(path), np.load(path) as file:
            label = file["label"]
            index = file["index"] if "index" in file else np.arange(len(label))
            return index, label, file["probability"].argmax(axis=1)
    if images == "test" and not packed.is_file():
        raise runs.RunError(
            f"the run {name} was not judged on the test images. Judge it with\n  papermill notebooks/"
            f"04_evaluation_and_visualization.ipynb out.ipynb -p run_name {name} -p runs_dir {folder}"
        )
    raise runs.RunError(f"there are no {images} predictions of a run {name} in {folder}")


def mcnemar(correct_a, correct_b):
    """Test whether two networks are right equally often; return (images only a has right, only b, p-value).

    correct_a, correct_b: (n,) bool, answers to the same images. The exact test (McNemar 1947, doi:10.1007/BF02295996):
    images on which both are right or both wrong say nothing, and of the others each should have half.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return only_a, only_b, float(p)


def paired_bootstrap(correct_a, correct_b, samples=10_000, seed=0):
    """Return the 95 % interval (low, high) of accuracy a minus accuracy b, had other images been drawn.

    Draws as many images again with replacement, both answers to an image together (Efron 1979,
    doi:10.1214/aos/1176344552). An image counts +1, -1 or 0, so drawing images is drawing three counts.
    """
    n = len(correct_a)
    only_a, only_b, _ = mcnemar(correct_a, correct_b)
    shares = np.array([only_a, only_b, n - only_a - only_b]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=samples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------- two small files


def pack(folder, target):
    """Write the runs of `folder` as runs.csv and predictions.npz (validation) into `target`, to keep or to send.

    Raises RunError when there is no complete run, or when the runs were judged on different images.
    """
    folder, target = Path(folder), Path(target)
    table = read_runs(folder).drop(columns="setting")
    read_correct(folder, table.index)  # refuses runs of different images
    answers = {name: _predictions(folder, name, "validation") for name in table.index}
    index, label, _ = next(iter(answers.values()))
    target.mkdir(parents=True, exist_ok=True)
    guesses = {name: guess.astype(np.uint8) for name, (_, _, guess) in answers.items()}
    runs.write_npz(target / PREDICTIONS, index=index.astype(np.int32), label=label.astype(np.uint8), **guesses)
    with runs.written_whole(target / TABLE) as temporary:
        table.to_csv(temporary)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m fmnist_utils.comparison FOLDER TARGET")
    try:
        pack(*sys.argv[1:])
    except runs.RunError as error:
        sys.exit(str(error))
