"""04 to 07 take any allowed run: each part gives its figure, or says what it needs."""

import matplotlib.pyplot as plt
import nbformat
import pytest

from fmnist_utils import data, evaluation, pipeline, runs
from fmnist_utils.model import build_model

DEEP = {"filters": [8, 16, 32, 64], "convs_per_block": [1, 1, 1, 2], "kernel_size": 6, "pooling_head": "flatten"}
BARE = {"filters": [1], "convs_per_block": [1], "kernel_size": 1, "dense_units": 0, "batch_norm": False}


def execute(path, given):
    """Run a notebook's code cells in this process, with other parameters; return its variables."""
    names = {"__name__": "__main__"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.stem}: {cell.id}", "exec"), names)
            names |= given if "parameters" in cell.metadata.get("tags", []) else {}
    plt.close("all")
    return names


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("network", "factor"), [(DEEP, 1e4), (BARE, 1)], ids=["deep", "bare"])
def test_notebooks_take_any_run(network, factor, tmp_path, capsys):
    """The networks are not trained; scores 10,000 times as large give probabilities of exactly 0 and 1."""
    reference, given = runs.Run(runs.REFERENCE, {}), {"run_name": "odd", "runs_dir": str(tmp_path)}
    written = {"history": runs.read_history(reference), "metrics": runs.read_metrics(reference)}
    (x, y), _ = data.load_data()
    _, index = data.stratified_split(y, 0.01)
    model = build_model(**network)
    model.layers[-1].kernel.assign(factor * model.layers[-1].kernel)
    written |= {"valid_index": index, "y_valid": y[index], "y_prob": evaluation.predict(model, data.scale(x[index]))}
    changed = {"train_size": 100, "validation_fraction": 0.01, **network, **given}
    runs.finish(run := runs.start(pipeline.defaults(pipeline.TRAINING) | changed), model=model, **written)
    evaluated, *_ = [execute(path, given) for path in sorted(pipeline.FOLDER.glob("0[4-7]_*.ipynb"))]
    assert runs.read_metrics(run, runs.TEST_METRICS)["test_loss"] == evaluated["test_loss"]
    told = capsys.readouterr().out
    assert "nan%" not in told and (", block before" in told) == (len(network["filters"]) > 1)


@pytest.mark.slow
def test_training_on_all_images(tmp_path, capsys):
    """Without validation images 01 to 04 go through, and what needs some says so."""
    given = {"run_name": "all", "runs_dir": str(tmp_path), "validation_fraction": 0.0, "early_stopping": False}
    given |= {"train_size": 500, "epochs": 1, "filters": [4], "convs_per_block": [1]}
    for notebook in pipeline.NOTEBOOKS:
        own = given.keys() & pipeline.defaults(notebook)
        execute(pipeline.FOLDER / f"{notebook}.ipynb", {name: given[name] for name in own})
    run = runs.find("all", str(tmp_path))
    pipeline._print_table(run.folder)
    assert runs.read_metrics(run, runs.TEST_METRICS)["test_images"] == 10_000
    assert "nan%" not in capsys.readouterr().out
    with pytest.raises(runs.RunError, match="'all' has no validation images"):
        runs.read_predictions(run)
