"""The benchmark: other people's recipes are as published, and the summary says what the trainings say."""

import importlib.util

import pytest

from fmnist_utils import runs

spec = importlib.util.spec_from_file_location("time_to_accuracy", runs.ROOT / "benchmarks" / "time_to_accuracy.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def training(recipe, seed, val_accuracy, seconds, **others):
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
    reached = training("plain", 0, [0.9, 0.93, 0.95], [10, 20, 30])
    assert bench.seconds_to(0.93, reached) == (20, True)
    assert bench.seconds_to(0.96, reached) == (30, False), "all its time is a lower bound"


def test_the_summary_keeps_shortened_trainings_out_of_times_and_accuracies():
    trainings = [
        training("plain", 0, [0.90, 0.94, 0.92], [60, 120, 180], test_accuracy=0.92),
        training("plain", 1, [0.90, 0.91, 0.93], [60, 130, 190], ended_at_goal=True),
        training("plain", 2, [0.93], [100], ended_at_goal=True),
        training("quick", 0, [0.90, 0.93], [4, 8], test_accuracy=0.92),
        training("quick", 1, [0.90, 0.94], [5, 10], test_accuracy=0.94),
        training("full", 0, [0.92, 0.95], [30, 60], test_accuracy=0.94),
    ]
    result = bench.summarize(trainings, peak=100.0)
    assert result["ratio_to_93"] == pytest.approx(120 / 9, abs=0.01)
    assert result["plain"]["train_seconds_median"] == 180 and result["plain"]["test_accuracy_mean"] == 0.92
    assert result["plain"]["epoch_seconds_median"] == 60 and result["plain"]["test_accuracy_std"] is None
    assert result["quick"]["test_accuracy_mean"] == pytest.approx(0.93)
    assert result["quick"]["test_accuracy_std"] == pytest.approx(0.01414, abs=1e-5)
    assert result["quick"]["share_of_matrix_peak"] == pytest.approx(0.5) and result["quick"]["seeds"] == [0, 1]


def test_no_ratio_is_given_when_one_of_our_seeds_never_reached_the_goal():
    trainings = [
        training("plain", 0, [0.94], [60], test_accuracy=0.92),
        training("quick", 0, [0.94], [4], test_accuracy=0.92),
        training("quick", 1, [0.92], [4], test_accuracy=0.92),
    ]
    assert "ratio_to_93" not in bench.summarize(trainings, peak=100.0)
