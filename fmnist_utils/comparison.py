"""Comparing runs: a folder of runs as one frame, averages over seeds, and what two runs predict for the same images."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from fmnist_utils import runs

BASE = "base"  # the configuration from which the others depart


def read_runs(folder) -> pd.DataFrame:
    """Read a folder of run folders as one frame, a row per complete run, indexed by the run's name.

    Left of `configuration` are parameters, code and data; right of it metrics, cpu and threads. `configuration`, in
    words: the parameters that are not at their most frequent value, `seed` aside, or `BASE`; one that has none
    is always named. Of runs alike the newest counts; a damaged one is left out and named. RunError where there is none.
    """
    rows, names = {}, {}
    for path in sorted((path.parent for path in Path(folder).glob(f"[!.]*/{runs.METRICS}")), key=runs.finished):
        try:
            rows[path.name], parameters = _row(path)
            names |= parameters
        except runs.RunError as error:
            print(f"left out: {error}")
    if not rows:
        raise runs.RunError(f"no complete run is in {folder}. Make some with `make sweep`, or name another folder.")
    rows = {name: {**dict.fromkeys(names, "unset"), **row} for name, row in rows.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
    others = [name for name in names if name not in ("run_name", "data")]  # with seed, which may draw the data
    table["data"] = table.groupby(others, sort=False)["data"].transform(lambda x: x.mask(x == x.mode()[0], "usual"))
    table = table.drop_duplicates([name for name in names if name != "run_name"], keep="last").sort_index()
    table.insert(len(names), "configuration", BASE)
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
    if (folder / runs.VALIDATION).exists():  # a notebook of one's own need not write it
        runs.read_predictions(run)
    told = {n: _format(v) if isinstance(v, list | dict | None) else v for n, v in run.params.items()}
    results = {*metrics, "code", "data", "cpu", "threads", "configuration"} - {"seed", "precision"}
    if clash := run.params.keys() & results:
        raise runs.RunError(f"the run {run.name!r} has a parameter named like a result: {', '.join(sorted(clash))}")
    told |= {"code": str(machine.get("code_hash", "unknown"))[:8], "data": str(machine.get("data", "unknown"))}
    return {**told, **metrics, "cpu": machine.get("cpu"), "threads": machine.get("threads")}, told


def _format(value):
    if isinstance(value, list):
        return "-".join(map(str, value)) or "none"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def varying_parameters(table: pd.DataFrame) -> list[str]:
    """Return the parameters that differ between the runs of `table`; run_name and seed do not count."""
    names = table.columns[: table.columns.get_loc("configuration")].difference(["run_name", "seed"], sort=False)
    return [name for name in names if len(table[name].unique()) > 1]


def t_confidence_interval(values) -> dict[str, float]:
    """Return mean, std, and the mean's 95 % interval by Student's t, low and high; nan but the mean for one value."""
    values = pd.Series(values, dtype=float)
    mean, std, n = values.mean(), values.std(ddof=1), len(values)
    half = t.ppf(0.975, n - 1) * std / n**0.5
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}


def leaderboard(table: pd.DataFrame) -> pd.DataFrame:
    """Rank configurations by mean validation accuracy: runs, mean, std, low, high, seconds (median training)."""
    rows = {}
    for name, group in table.groupby("configuration"):
        interval = t_confidence_interval(group["val_accuracy"])
        rows[name] = {"runs": len(group), **interval, "seconds": group["train_seconds"].median()}
    board = pd.DataFrame.from_dict(rows, orient="index").rename_axis("configuration")
    return board.sort_values("mean", ascending=False)


def paired_differences(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Compare validation accuracy with the `baseline`'s, seed by seed; the lowest mean difference first.

    A row per other configuration: seeds that both have, and mean, std, low, high of the difference (see
    `t_confidence_interval`). Raises ValueError where no run has the baseline's configuration.
    """
    if baseline not in set(table["configuration"]):
        known = "; ".join(sorted(table["configuration"].unique()))
        raise ValueError(f"baseline = {baseline!r}: no run has that configuration. There are: {known}")
    by_seed = table.pivot_table(index="seed", columns="configuration", values="val_accuracy")
    differences = by_seed.drop(columns=baseline).sub(by_seed[baseline], axis="index")
    both = {name: column.dropna() for name, column in differences.items() if column.notna().any()}
    rows = {name: {"seeds": len(values), **t_confidence_interval(values)} for name, values in both.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["seeds", "mean", "std", "low", "high"])
    return frame.rename_axis("configuration").sort_values("mean")


def load_correctness(folder, names: list[str], images: str = "validation") -> pd.DataFrame:
    """Tell for each image (row) and run (column) if it was right; `images`: "validation", or "test" after 04."""
    file = {"validation": runs.VALIDATION, "test": runs.TEST}[images]
    predictions = {name: runs.read_predictions(runs.Run(Path(folder, name), {}), file) for name in names}
    index = predictions[names[0]][0]
    if not all(np.array_equal(other, index) for other, _, _ in predictions.values()):
        told = "were evaluated on different images: compare runs of one split_seed and one validation_fraction."
        raise runs.RunError(f"the runs {', '.join(names)} {told}")
    correct = {name: y_prob.argmax(axis=1) == label for name, (_, label, y_prob) in predictions.items()}
    return pd.DataFrame(correct, index=pd.Index(index, name="image"))
