"""The benchmark: other people's recipes are as published, and the summary says what the trainings say."""

import importlib
import os
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest

from fmnist_utils import pipeline, runs, training
from fmnist_utils._recipe import compiled_network, read_recipe
from fmnist_utils._tensorflow import tf
from fmnist_utils.model import build_model

sys.path.insert(0, str(runs.ROOT / "benchmarks"))
bench, step_time = (importlib.import_module(name) for name in ("time_to_accuracy", "step_time"))
sys.path.pop(0)


def trained(recipe, seed, val_accuracy, seconds, **others):
    return {
        "recipe": recipe, "seed": seed, "val_accuracy": val_accuracy, "seconds": seconds, "train_seconds": seconds[-1],
        "best_epoch": len(seconds), "images_per_second": 1000.0, "gflop_per_image": 0.05, "peak_memory_mb": 900.0,
        "model_parameters": 7, "environment": {"cpu": "A", "cores": 2}, **others,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "batch_size", "epochs"),
    [("plain", 306_538, 64, 50), ("tensorflow_basic", 101_770, 32, 10), ("keras_convnet", 34_826, 128, 15),
     ("hands_on_ml", 1_413_834, 32, 10)],
)  # fmt: skip
def test_the_recipes_of_others_are_as_published(name, parameters, batch_size, epochs):
    model, optimizer, *settings = bench.their_recipe(name)
    assert (model.count_params(), *settings) == (parameters, batch_size, epochs)
    assert type(optimizer).__name__ == ("Nadam" if name == "hands_on_ml" else "Adam")


def test_seconds_to_the_goal_are_those_of_the_first_epoch_that_reaches_it():
    reached = trained("plain", 0, [0.9, 0.93, 0.95], [10, 20, 30])
    assert bench.seconds_to(0.93, reached) == (20, True)
    assert bench.seconds_to(0.96, reached) == (30, False), "all its time is a lower bound"


def test_the_summary_is_of_all_seeds():
    trainings = [
        trained("plain", 0, [0.90, 0.94, 0.92], [60, 120, 180], test_accuracy=0.92),
        trained("plain", 1, [0.90, 0.91, 0.93], [60, 130, 190], test_accuracy=0.93),
        trained("plain", 2, [0.93], [100], test_accuracy=0.94),
        trained("quick", 0, [0.90, 0.93], [4, 8], test_accuracy=0.92),
        trained("quick", 1, [0.90, 0.94], [5, 10], test_accuracy=0.94),
        trained("full", 0, [0.92, 0.95], [30, 60], test_accuracy=0.94),
        trained("hands_on_ml", 0, [0.86], [100], extrapolated_from_epochs=1),
    ]
    result = bench.summarize(trainings, peak=100.0)
    assert result["ratio_to_93"] == pytest.approx(120 / 9, abs=0.01)
    assert result["plain"]["train_seconds_median"] == 180 and result["plain"]["test_accuracy_mean"] == 0.93
    assert result["plain"]["epoch_seconds_median"] == 60 and result["plain"]["test_accuracy_std"] == 0.01
    assert result["plain"]["val_accuracy_mean"] == pytest.approx((0.92 + 0.93 + 0.93) / 3, abs=1e-5)
    assert result["quick"]["test_accuracy_mean"] == pytest.approx(0.93)
    assert result["quick"]["test_accuracy_std"] == pytest.approx(0.01414, abs=1e-5)
    assert result["quick"]["share_of_matrix_peak"] == pytest.approx(0.5) and result["quick"]["seeds"] == [0, 1]
    assert result["full"]["test_accuracy_std"] is None and result["hands_on_ml"]["test_accuracy_mean"] is None


def test_no_ratio_is_given_when_one_of_our_seeds_never_reached_the_goal():
    trainings = [
        trained("plain", 0, [0.94], [60], test_accuracy=0.92),
        trained("quick", 0, [0.94], [4], test_accuracy=0.92),
        trained("quick", 1, [0.92], [4], test_accuracy=0.92),
    ]
    assert "ratio_to_93" not in bench.summarize(trainings, peak=100.0)


def described(model):
    """Return what `compile` was given, and where one step of weight decay alone leaves weights of 1."""
    optimizer, rates = model.optimizer, []
    optimizer.build(model.trainable_variables)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([np.zeros(variable.shape, "float32") for variable in model.trainable_variables])
    for step in (0, 5, 20, 59):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    weights = {variable.path: float(np.mean(variable)) for variable in model.trainable_variables}
    steps = model.steps_per_execution
    return model.loss.get_config(), type(optimizer), optimizer.beta_2, rates, steps, model.dtype_policy.name, weights


def test_the_recipe_is_compiled_as_notebook_03_does_it():
    """With no parameter of the training at its default."""
    params = read_recipe(runs.ROOT / "params" / "quick.yaml")
    params |= {"weight_decay": 0.5, "label_smoothing": 0.3, "learning_rate": 0.02, "precision": "float32", "epochs": 2}
    params |= {"filters": [4], "convs_per_block": [1], "dropout": 0.3}
    cells = {
        cell.id: cell.source
        for cell in nbformat.read(runs.ROOT / "notebooks" / f"{pipeline.TRAINING}.ipynb", as_version=4).cells
    }
    (rate,) = [line for line in cells["schedule"].split("\n") if line.startswith("rate = ")]
    names = {"np": np, "tf": tf, "training": training, "build_model": build_model, "steps_per_epoch": 30, **params}
    names["steps_per_execution"] = training.steps_per_execution(30)
    exec(rate + "\n" + cells["train-fit"].split("checkpoint = ")[0], names)
    assert described(compiled_network(params, 30)) == described(names["model"])


def test_images_a_second_are_those_of_the_split_in_each_epoch():
    model = step_time.compiled(read_recipe(runs.ROOT / "params" / "quick.yaml"), 10, "float32")
    history = pd.DataFrame({"accuracy": [0.8, 0.9], "val_accuracy": [0.8, 0.9], "seconds": [3.0, 2.0]})
    facts = bench.facts("quick", 0, model, history, 1000, 2048)
    assert facts["images_per_second"] == 400 and facts["seconds"] == [3, 5] and facts["peak_memory_mb"] == 2


@pytest.mark.slow
def test_the_overhead_of_fit_is_measured_beside_validation_and_the_graph(tmp_path, capsys):
    result = bench.fit_overhead(rounds=2, images=2000, folder=tmp_path)
    assert -0.9 < result["fit_overhead"] < 20 and result["validation_seconds"] > 0 and result["graph_seconds"] > 0
    assert (tmp_path / runs.CHECKPOINT).exists() and "epoch  3/3" in capsys.readouterr().out


def test_the_old_step_is_the_one_of_keras_with_the_same_network_and_its_own_threads():
    params = read_recipe(runs.ROOT / "params" / "quick.yaml")
    new, old = (step_time.compiled(params, 375, "mixed_bfloat16", old) for old in (False, True))
    assert (new.steps_per_execution, old.steps_per_execution) == (25, 1)
    assert [w.shape for w in new.weights] == [w.shape for w in old.weights]
    assert {type(layer).__module__.split(".")[0] for layer in old.layers} == {"keras"}
    assert {type(layer).__module__.split(".")[0] for layer in new.layers} != {"keras"}
    assert old.get_layer("block1_conv1").compute_dtype == "bfloat16"
    assert set(step_time.default_threads()) == {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"}
    assert all(1 <= int(threads) <= os.cpu_count() for threads in step_time.default_threads().values())


def test_old_and_new_step_take_turns_and_the_ratio_is_within_a_round(monkeypatch):
    asked = []

    def measured(precision, steps, old):
        asked.append((precision, old))
        return (30.0 if old else 10.0) * (1 + len(asked) // 4)

    monkeypatch.setattr(step_time, "measure_elsewhere", measured)
    result = step_time.compare(rounds=2, steps=1)
    assert [old for _, old in asked] == [True, False, True, False, False, True, False, True]
    assert set(result) == {"float32", "mixed_bfloat16"}
    assert step_time.summary([30, 60, 40], [10, 30, 20]) == {"old_ms": 40, "new_ms": 20, "ratio": 2}
