"""04 to 07 take any allowed run: each part gives its figure, or says what it needs."""

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from fmnist_utils import data, evaluation, pipeline, runs
from fmnist_utils.model import build_model

DEEP = {"filters": [8, 16, 32, 64], "convs_per_block": [1, 1, 1, 2], "kernel_size": 6, "pooling_head": "flatten"}
BARE = {"filters": [1], "convs_per_block": [1], "kernel_size": 1, "dense_units": 0, "batch_norm": False}


def execute(path, given):
    """Run a notebook's code cells in this process, with parameters, and return its variables."""
    names = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.stem}: {cell.id}", "exec"), names)
            names |= given if "parameters" in cell.metadata.get("tags", []) else {}
    plt.close("all")
    return names


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("network", "factor"), [(DEEP, 1e4), (BARE, 1)], ids=["certain", "bare"])
def test_notebooks_take_any_run(network, factor, tmp_path, capsys):
    """Weights as they start; by a factor of 10,000 for the scores, most probabilities are exactly 0 or 1."""
    given = {"run_name": "odd", "runs_dir": str(tmp_path)}
    changed = {"seed": 0, "split_seed": 0, "train_size": 100, "validation_fraction": 0.01, **network, **given}
    (x, y), _ = data.load_data()
    _, index = data.stratified_split(y, 0.01)
    model = build_model(**network)
    model.layers[-1].kernel.assign(factor * model.layers[-1].kernel)
    losses = ["loss", "accuracy", "val_loss", "val_accuracy"]
    metrics = {"val_accuracy": 0.1, "best_epoch": 1, "train_seconds": 1}
    history, y_prob = (
        pd.DataFrame(0.1, pd.Index([1], name="epoch"), losses),
        evaluation.predict(model, data.scale(x[index])),
    )
    results = {"history": history, "metrics": metrics, "valid_index": index, "y_valid": y[index], "y_prob": y_prob}
    runs.finish(run := runs.start(pipeline.defaults(pipeline.TRAINING) | changed), model=model, **results)
    variables = [execute(path, given) for path in sorted(pipeline.FOLDER.glob("0[4-7]_*.ipynb"))]
    assert runs.read_metrics(run, runs.TEST_METRICS)["test_loss"] == variables[0]["test_loss"]
    told = capsys.readouterr().out
    assert "nan%" not in told and ("block before" in told) == (len(network["filters"]) > 1)
