"""Comparing runs: a folder of runs as one frame, averages over seeds, and what two runs predict for the same images."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from fmnist_utils import runs
from fmnist_utils.parameters import PARAMETERS

TABLE, PREDICTIONS = "runs.csv", "predictions.npz"  # a folder of runs, exported as two small files
BASE = "base"  # the configuration from which the others depart


def read_runs(folder) -> pd.DataFrame:
    """Read a folder of run folders, or of the two files of tools/export_runs.py, as one frame, a row per complete run.

    Indexed by the run's name: its parameters and metrics, cpu, threads, and configuration: in words, the parameters
    that are not at their most frequent value, seeds aside, or `BASE`; a parameter without one is always told. Of runs
    with the same parameters and seed the newest counts. Raises RunError where there is none.
    """
    if Path(folder, TABLE).is_file():
        table = pd.read_csv(Path(folder, TABLE), dtype={"run": str}, index_col="run", encoding=runs.UTF8)
    else:
        newest_last = sorted(Path(folder).glob(f"[!.]*/{runs.METRICS}"), key=lambda path: path.stat().st_mtime)
        rows = {path.parent.name: _row(path.parent) for path in newest_last}
        if not rows:
            raise runs.RunError(f"no complete run is in {folder}. Make some with `make sweep`, or name another folder.")
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
        parameters = [name for name in table if name in PARAMETERS and name != "run_name"]
        table = table.drop_duplicates(parameters, keep="last").sort_index()
    varying = varying_parameters(table)
    modes = {name: table[name].mode() for name in varying}
    configurations = [
        ", ".join(f"{n} = {_format(row[n])}" for n in varying if len(modes[n]) > 1 or row[n] != modes[n][0]) or BASE
        for _, row in table.iterrows()
    ]
    return table.assign(configuration=configurations)


def _row(folder):
    run = runs.Run(folder, runs.read_yaml(folder / runs.PARAMS))
    metrics, machine = (runs.read_metrics(run, name) for name in (runs.METRICS, runs.ENVIRONMENT))
    params = {name: _format(value) if isinstance(value, list) else value for name, value in run.params.items()}
    return {**params, **metrics, "cpu": machine.get("cpu"), "threads": machine.get("threads")}


def _format(value):
    if isinstance(value, list):
        return "-".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def varying_parameters(table: pd.DataFrame) -> list[str]:
    """Return the parameters that differ between the runs of `table`; run_name and seed do not count."""
    names = [name for name in table if name in PARAMETERS and name not in ("run_name", "seed")]
    return [name for name in names if len(table[name].unique()) > 1]


def t_confidence_interval(values) -> dict[str, float]:
    """Return mean, std, and the mean's 95 % interval by Student's t, low and high; nan but the mean for one value."""
    values = pd.Series(values, dtype=float)
    mean, std, n = values.mean(), values.std(ddof=1), len(values)
    half = t.ppf(0.975, n - 1) * std / n**0.5
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}


def leaderboard(table: pd.DataFrame, metric: str = "val_accuracy") -> pd.DataFrame:
    """Rank configurations by a metric's mean over seeds: runs, mean, std, low, high, seconds (median training)."""
    rows = {
        name: {"runs": len(group), **t_confidence_interval(group[metric]), "seconds": group["train_seconds"].median()}
        for name, group in table.groupby("configuration")
    }
    board = pd.DataFrame.from_dict(rows, orient="index").rename_axis("configuration")
    return board.sort_values("mean", ascending=False)


def paired_differences(table: pd.DataFrame, baseline: str, metric: str = "val_accuracy") -> pd.DataFrame:
    """Compare every configuration with the `baseline`, seed by seed; the lowest mean difference first.

    A row per other configuration: seeds that both have, and mean, std, low, high of the difference of the metric (see
    `t_confidence_interval`). Raises ValueError where no run has the baseline's configuration.
    """
    if baseline not in set(table["configuration"]):
        known = "; ".join(sorted(table["configuration"].unique()))
        raise ValueError(f"baseline = {baseline!r}: no run has that configuration. There are: {known}")
    by_seed = table.pivot_table(index="seed", columns="configuration", values=metric)
    differences = by_seed.drop(columns=baseline).sub(by_seed[baseline], axis="index")
    both = {name: column.dropna() for name, column in differences.items() if column.notna().any()}
    rows = {name: {"seeds": len(values), **t_confidence_interval(values)} for name, values in both.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["seeds", "mean", "std", "low", "high"])
    return frame.rename_axis("configuration").sort_values("mean")


def load_correctness(folder, names: list[str], images: str = "validation") -> pd.DataFrame:
    """Tell for each image (row) and run (column) if it was right; `images`: "validation", or "test" after 04."""
    predictions = {name: _predictions(Path(folder), name, images) for name in names}
    index = predictions[names[0]][0]
    if not all(np.array_equal(other, index) for other, _, _ in predictions.values()):
        told = "were evaluated on different images: compare runs of one split_seed and one validation_fraction."
        raise runs.RunError(f"the runs {', '.join(names)} {told}")
    correct = {name: y_pred == label for name, (_, label, y_pred) in predictions.items()}
    return pd.DataFrame(correct, index=pd.Index(index, name="image"))


def _predictions(folder, name, images):
    """Return image numbers, true classes and predicted classes of one run, (n,) each."""
    exported, of_images = folder / PREDICTIONS, {"validation": runs.VALIDATION, "test": runs.TEST}
    if not exported.is_file():
        index, label, y_prob = runs.read_predictions(runs.Run(folder / name, {}), of_images[images])
        return index, label, y_prob.argmax(axis=1)
    with np.load(exported) as arrays:
        if images != "validation" or name not in arrays:
            raise runs.RunError(f"there are no {images} predictions of a run {name} in {exported}")
        return arrays["index"], arrays["label"], arrays[name]
