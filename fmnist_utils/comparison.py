"""Comparing runs: a folder of runs as one frame, averages over seeds, and what two runs predict for the same images."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from fmnist_utils import runs
from fmnist_utils._files import UTF8, RunError, atomic_write, read_yaml, run_file_errors, write_npz
from fmnist_utils.parameters import PARAMETERS

TABLE, PREDICTIONS = "runs.csv", "predictions.npz"  # a folder of runs, exported as two small files
BASE = "base"  # the configuration from which the others depart


def read_runs(folder) -> pd.DataFrame:
    """Read a folder of runs as one frame, a row a complete run.

    Of runs with the same parameters and seed, as from two versions of the code, the newest counts.

    Args:
        folder (str or Path): A folder of run folders, or of the two files that `export_runs` wrote.

    Returns:
        Indexed by the run's name: its parameters and metrics, cpu, threads, and configuration: in words, the
        parameters that are not at their most frequent value (a parameter without one always), seeds aside; `BASE` where
        all are.

    Raises:
        RunError: No complete run is there.
    """
    folder = Path(folder)
    if (folder / TABLE).is_file():
        table = pd.read_csv(folder / TABLE, dtype={"run": str}, index_col="run", encoding=UTF8)
    else:
        newest_last = sorted(folder.glob(f"[!.]*/{runs.METRICS}"), key=lambda path: path.stat().st_mtime)
        rows = {path.parent.name: _row(path.parent) for path in newest_last}
        if not rows:
            raise RunError(f"no complete run is in {folder}. Make some with `make sweep`, or name another folder.")
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
        parameters = [name for name in table if name in PARAMETERS and name != "run_name"]
        table = table.drop_duplicates(parameters, keep="last").sort_index()
    modes, varying = _modal_values(table), varying_parameters(table)
    configurations = [
        ", ".join(f"{name} = {_format(row[name])}" for name in varying if row[name] != modes[name]) or BASE
        for _, row in table.iterrows()
    ]
    return table.assign(configuration=configurations)


def _row(folder):
    with run_file_errors(folder / runs.PARAMS):
        params = dict(read_yaml(folder / runs.PARAMS))
    run = runs.Run(folder, params)
    metrics, machine = (runs.read_metrics(run, name) for name in (runs.METRICS, runs.ENVIRONMENT))
    params = {name: _format(value) if isinstance(value, list) else value for name, value in params.items()}
    return {**params, **metrics, "cpu": machine["cpu"], "threads": machine["threads"]}


def varying_parameters(table: pd.DataFrame) -> list[str]:
    """Return the parameters that differ between the runs of `table`; run_name and seed do not count."""
    names = [name for name in table if name in PARAMETERS and name not in ("run_name", "seed")]
    return [name for name in names if len(table[name].unique()) > 1]


def _modal_values(table):
    """Return {varying parameter: its most frequent value, None when two are as frequent}."""
    modes = {name: table[name].mode() for name in varying_parameters(table)}
    return {name: mode[0] if len(mode) == 1 else None for name, mode in modes.items()}


def _format(value):
    if isinstance(value, list):
        return "-".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def one_factor_slice(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the runs that show what the parameter `name` does: all other parameters at their most frequent value.

    Where that leaves one value of `name` only, as in a full or a random grid, these are all runs.
    """
    others = {other: value for other, value in _modal_values(table).items() if other != name and value is not None}
    rows = table[np.all([table[other] == value for other, value in others.items()] or [table[name].notna()], axis=0)]
    return rows if len(rows[name].unique()) > 1 else table


def t_confidence_interval(values: np.ndarray) -> tuple[float, float, float, float]:
    """Return mean, standard deviation, and the 95 % confidence interval of the mean by Student's t distribution.

    Args:
        values: (n,), say the accuracies of n seeds; taken for independent and roughly normal.

    Returns:
        mean, std, low, high; all but the mean are nan for n = 1.
    """
    values = np.asarray(values, dtype=float)
    mean, n = values.mean(), len(values)
    if n < 2:
        return mean, np.nan, np.nan, np.nan
    std = values.std(ddof=1)
    half = t.ppf(0.975, n - 1) * std / np.sqrt(n)
    return mean, std, mean - half, mean + half


def _statistics(values):
    return dict(zip(("mean", "std", "low", "high"), t_confidence_interval(values), strict=True))


def leaderboard(table: pd.DataFrame, metric: str = "val_accuracy") -> pd.DataFrame:
    """Rank the configurations by the mean of a metric over their seeds, the best first.

    Returns:
        A row a configuration: runs, mean, std, low, high (see `t_confidence_interval`), seconds (median training).
    """
    rows = {
        name: {"runs": len(group), **_statistics(group[metric]), "seconds": group["train_seconds"].median()}
        for name, group in table.groupby("configuration")
    }
    board = pd.DataFrame.from_dict(rows, orient="index").rename_axis("configuration")
    return board.sort_values("mean", ascending=False)


def paired_differences(table: pd.DataFrame, baseline: str, metric: str = "val_accuracy") -> pd.DataFrame:
    """Compare every configuration with one of them, seed by seed.

    Args:
        table: From `read_runs`.
        baseline: The configuration to compare with.
        metric: A column.

    Returns:
        A row a configuration but the baseline, the lowest mean first: seeds that both have, mean difference of the
        metric, std, low, high (see `t_confidence_interval`).

    Raises:
        ValueError: No run has the baseline's configuration.
    """
    if baseline not in set(table["configuration"]):
        known = "; ".join(sorted(table["configuration"].unique()))
        raise ValueError(f"baseline = {baseline!r}: no run has that configuration. There are: {known}")
    by_seed = table.pivot_table(index="seed", columns="configuration", values=metric)
    rows = {}
    for configuration in by_seed.columns.drop(baseline):
        differences = (by_seed[configuration] - by_seed[baseline]).dropna()
        if len(differences):
            rows[configuration] = {"seeds": len(differences), **_statistics(differences)}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["seeds", "mean", "std", "low", "high"])
    return frame.rename_axis("configuration").sort_values("mean")


# ---------------------------------------------------------------------------------------------- image by image


def load_correctness(folder, names: list[str], images: str = "validation") -> pd.DataFrame:
    """Tell for each image and run whether the prediction was correct.

    Args:
        folder (str or Path): As for `read_runs`.
        names: The runs.
        images: "validation"; or "test", for which 04 must have evaluated each of the runs.

    Returns:
        bool, a row an image, a column a run.

    Raises:
        RunError: A run has no such predictions, or two runs were evaluated on different images.
    """
    folder, correct, known_index = Path(folder), {}, None
    for name in names:
        index, label, y_pred = _predictions(folder, name, images)
        if known_index is not None and not np.array_equal(index, known_index):
            raise RunError(
                f"the runs {', '.join(names)} were evaluated on different images: compare runs of one split_seed and "
                "one validation_fraction."
            )
        correct[name], known_index = y_pred == label, index
    return pd.DataFrame(correct, index=pd.Index(known_index, name="image"))


def _predictions(folder, name, images):
    """Return image numbers, true classes and predicted classes of one run, (n,) each."""
    exported, path = folder / PREDICTIONS, folder / name / (runs.VALIDATION if images == "validation" else runs.TEST)
    if exported.is_file() and images == "validation":
        with np.load(exported) as arrays:
            if name in arrays:
                return arrays["index"], arrays["label"], arrays[name]
    elif path.is_file():
        index, label, y_prob = runs.read_predictions(runs.Run(folder / name, {}), path.name)
        return index, label, y_prob.argmax(axis=1)
    if images == "test" and not exported.is_file():
        raise RunError(
            f"the run {name} was not evaluated on the test images. Evaluate it with\n  papermill notebooks/"
            f'04_evaluation_and_visualization.ipynb out.ipynb -r run_name {name} -r runs_dir "{folder}"'
        )
    raise RunError(f"there are no {images} predictions of a run {name} in {folder}")


# ---------------------------------------------------------------------------------------------- two small files


def export_runs(folder, target):
    """Write the runs of `folder` as runs.csv and predictions.npz (validation) into `target`, to keep or to send.

    Raises:
        RunError: There is no complete run, or the runs were evaluated on different images.
    """
    folder, target = Path(folder), Path(target)
    table = read_runs(folder).drop(columns="configuration")
    load_correctness(folder, table.index)  # refuses runs of different images
    predictions = {name: _predictions(folder, name, "validation") for name in table.index}
    index, label, _ = next(iter(predictions.values()))
    target.mkdir(parents=True, exist_ok=True)
    y_pred = {name: classes.astype(np.uint8) for name, (_, _, classes) in predictions.items()}
    write_npz(target / PREDICTIONS, index=index.astype(np.int32), label=label.astype(np.uint8), **y_pred)
    with atomic_write(target / TABLE) as temporary:
        table.to_csv(temporary, encoding=UTF8)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m fmnist_utils.comparison FOLDER TARGET")
    try:
        export_runs(*sys.argv[1:])
    except RunError as error:
        sys.exit(str(error))
