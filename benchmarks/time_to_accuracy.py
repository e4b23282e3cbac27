"""Validation accuracy against seconds of training: our parameter files, and the recipes people would use instead.

python benchmarks/time_to_accuracy.py [quick plain …] [--seeds 3]     (`make bench`: all of them, many hours)

Ours are params/*.yaml, trained by executing notebook 03; the others are written here as they were published. Each
training leaves a file in results/trainings/, and ours keep a checkpoint per epoch: the command goes on where it was
stopped. Seconds are of training alone. The test set is evaluated once, at the end; nothing is chosen on it.
"""

import argparse
import json
import timeit
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from fmnist_utils import data, evaluation, pipeline, plots, runs
from fmnist_utils._environment import environment
from fmnist_utils._tensorflow import tf
from fmnist_utils.model import layer_costs

RESULTS = runs.ROOT / "benchmarks" / "results"
RUNS = runs.ROOT / "benchmarks" / "runs"  # not committed
THEIRS = {"plain": (64, 50), "tensorflow_basic": (32, 10), "keras_convnet": (128, 15), "hands_on_ml": (32, 10)}
RECIPES = [*sorted(path.stem for path in (runs.ROOT / "params").glob("*.yaml")), "record_all", *THEIRS]
SEEDS = {"quick": 5, "sprint": 5, "full": 5, "record": 2, "plain": 3}  # one of the others
THREADS = {"TF_NUM_INTRAOP_THREADS": "0", "TF_NUM_INTEROP_THREADS": "0"}  # as many as TensorFlow takes by itself
GOAL = 0.93


def their_network(name):
    """Build one of the networks of others, uncompiled."""
    layers = tf.keras.layers
    conv, dense = partial(layers.Conv2D, activation="relu"), partial(layers.Dense, activation="relu")
    pool, flatten, drop, normalise = layers.MaxPooling2D, layers.Flatten, layers.Dropout, layers.BatchNormalization
    if name == "plain":  # the brief, as anyone would write it down
        same = partial(conv, kernel_size=3, padding="same")
        parts = [x for n in (32, 64, 128) for x in (same(n), normalise(), same(n), normalise(), pool(), drop(0.25))]
        parts += [layers.GlobalAveragePooling2D(), dense(128), normalise(), drop(0.5)]
    elif name == "tensorflow_basic":  # tensorflow.org/tutorials/keras/classification
        parts = [flatten(), dense(128)]
    elif name == "keras_convnet":  # keras.io/examples/vision/mnist_convnet
        parts = [conv(32, 3), pool(), conv(64, 3), pool(), flatten(), drop(0.5)]
    elif name == "hands_on_ml":  # Géron, Hands-On Machine Learning, 3rd edition, chapter 14
        conv, dense = (partial(layer, kernel_initializer="he_normal") for layer in (conv, dense))
        same = partial(conv, padding="same")
        parts = [same(64, 7), pool(), same(128, 3), same(128, 3), pool(), same(256, 3), same(256, 3), pool()]
        parts += [flatten(), dense(128), drop(0.5), dense(64), drop(0.5)]
    return tf.keras.Sequential([tf.keras.Input((28, 28, 1)), *parts, layers.Dense(10, activation="softmax")])


def train_theirs(name, seed):
    (x_raw, y_raw), _ = data.load_data()
    train, valid = ((data.scale(x_raw[i]), data.one_hot(y_raw[i])) for i in data.stratified_split(y_raw, 0.2, 0))
    tf.keras.utils.set_random_seed(seed)
    model, (batch_size, epochs) = their_network(name), THEIRS[name]
    model.compile("nadam" if name == "hands_on_ml" else "adam", loss="categorical_crossentropy", metrics=["accuracy"])
    times = []  # of the start of each epoch and of its validation; no batch has to wait for a callback
    hooks = dict.fromkeys(("on_epoch_begin", "on_test_begin"), lambda *_: times.append(timeit.default_timer()))
    stop = tf.keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True)
    history = model.fit(
        *train, batch_size=batch_size, epochs=epochs, validation_data=valid, validation_batch_size=1000, verbose=2,
        callbacks=[tf.keras.callbacks.LambdaCallback(**hooks), *([stop] if name == "plain" else [])],
    ).history  # fmt: skip
    best_epoch = stop.best_epoch + 1 if name == "plain" else epochs
    history = pd.DataFrame(history).assign(seconds=np.diff(times)[::2])
    return facts(name, seed, model, history, best_epoch, len(train[0]), "float32")


def train_ours(name, seed):
    values = pipeline.read_parameters(runs.ROOT / "params" / f"{name.replace('record_all', 'record')}.yaml")
    values |= {"run_name": f"{name}-{seed}", "runs_dir": str(RUNS), "seed": seed}
    values |= {"validation_fraction": 0, "early_stopping": False} if name == "record_all" else {}  # 60,000 images
    pipeline.execute_notebook(pipeline.FOLDER / f"{pipeline.TRAINING}.ipynb", None, values, cwd=pipeline.FOLDER)
    run = runs.find(values["run_name"], values["runs_dir"])
    model, metrics = evaluation.load_model(run.folder / runs.MODEL), runs.read_metrics(run)
    images = round(metrics["images_per_second"] * metrics["train_seconds"] / metrics["epochs_run"])
    return facts(name, seed, model, runs.read_history(run), metrics["best_epoch"], images, metrics["precision"])


def facts(name, seed, model, history, best_epoch, images, precision):
    """Return what a training's file holds. A training step multiplies and adds as often as three forward passes."""
    _, (x_test, y_test) = data.load_data()
    validated = history.get("val_accuracy", np.nan * history["accuracy"])  # none of a training on all images
    multiply_adds = 3 * images * int(layer_costs(model)["multiply_adds"].sum())
    return {
        "recipe": name, "seed": seed, "precision": precision, "best_epoch": int(best_epoch),
        "accuracy": history["accuracy"].round(6).tolist(), "val_accuracy": validated.round(6).tolist(),
        "seconds": history["seconds"].cumsum().round(2).tolist(),
        "giga_multiply_adds_per_second": multiply_adds / float(history["seconds"].min()) / 1e9,  # in the fastest epoch
        "test_accuracy": round(model.evaluate(data.scale(x_test), data.one_hot(y_test), 1000, verbose=0)[1], 4),
        "model_parameters": model.count_params(), "environment": environment(),
    }  # fmt: skip


def matrix_product(precision):
    """Measure the limit: the most multiply-adds per second, in 10⁹, that a product of two matrices reaches here."""
    rates = []
    for side in (512, 1024, 2048):
        a = tf.cast(tf.random.normal((side, side)), precision.removeprefix("mixed_"))
        rates.append(side**3 / min(timeit.repeat(lambda a=a: tf.matmul(a, a)[0, 0].numpy(), number=1, repeat=20)) / 1e9)
    return max(rates)


def alone(function, *arguments):
    """Call a function in a process of its own, since TensorFlow reads the number of its threads at its start."""
    with patch.dict("os.environ", THREADS), ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def summarise(trainings):
    """Return a row per recipe, over its seeds. A training that never reached GOAL counts with all its seconds."""
    rows = []
    for row in trainings:
        to_goal = [s for accuracy, s in zip(row["val_accuracy"], row["seconds"], strict=True) if accuracy >= GOAL]
        own = {"reached_goal": bool(to_goal), "seconds_to_goal": (to_goal or row["seconds"][-1:])[0]}
        own |= {"train_seconds": row["seconds"][-1], "epoch_seconds": np.diff(row["seconds"], prepend=0)}
        own["val_accuracy"] = row["val_accuracy"][row["best_epoch"] - 1]
        own["share_of_limit"] = row.get("giga_multiply_adds_per_second", np.nan) / row.get("matrix_product", np.nan)
        rows.append({"test_accuracy": np.nan, **row, **own})
    how = {"seed": ["count"], "val_accuracy": ["mean"], "test_accuracy": ["mean", "std"], "reached_goal": ["sum"]}
    how |= {name: ["median"] for name in ("train_seconds", "seconds_to_goal", "share_of_limit")}
    how["epoch_seconds"] = [("median", lambda arrays: np.median(np.concatenate(list(arrays))))]
    table = pd.DataFrame(rows).groupby("recipe").agg(how)
    table.columns = ["_".join(pair) for pair in table.columns]
    sure = table["seconds_to_goal_median"].where(table["reached_goal_sum"] == table["seed_count"])
    return table.assign(plain_is_longer=table["seconds_to_goal_median"].get("plain", np.nan) / sure).round(5)


def draw(trainings):
    """Draw the best accuracy so far, a line per recipe: that of the seed whose training took the median of seconds."""
    plots.use_style()
    ax = plt.subplots(figsize=(9, 5))[1]
    for i, name in enumerate(sorted({row["recipe"] for row in trainings if np.isfinite(row["val_accuracy"][0])})):
        own = sorted((row for row in trainings if row["recipe"] == name), key=lambda row: row["seconds"][-1])
        seconds, best = own[len(own) // 2]["seconds"], np.maximum.accumulate(own[len(own) // 2]["val_accuracy"])
        ax.plot(seconds, best, ".-", color=f"C{i}")
        ax.text(seconds[-1], best[-1] + 0.001, name, color=f"C{i}", va="bottom", ha=("right", "left")[name == "quick"])
    ax.axhline(GOAL, color="#555555", linestyle=":", linewidth=1)
    ax.set(xscale="log", xlabel="seconds of training (logarithmic)", ylabel="best validation accuracy so far")
    plots.save_figure(ax, RESULTS / "time_to_accuracy.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", choices=RECIPES, help="default: all")
    parser.add_argument("--seeds", type=int, help=f"of each recipe (default: 1, but {SEEDS})")
    arguments = parser.parse_args()
    for seed, name in ((s, n) for s in range(arguments.seeds or 5) for n in arguments.recipes or RECIPES):
        path = RESULTS / "trainings" / f"{name}-{seed}.json"
        if seed < (arguments.seeds or SEEDS.get(name, 1)) and not path.exists():
            print(f"--- {name}, seed {seed}", flush=True)
            row = alone(train_theirs, name, seed) if name in THEIRS else train_ours(name, seed)
            runs.write_json(path, row | {"matrix_product": alone(matrix_product, row["precision"])})
    trainings = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("trainings/*.json"))]
    table, cpus = summarise(trainings), sorted({row["environment"]["cpu"] for row in trainings})
    runs.write_json(RESULTS / "time_to_accuracy.json", {"cpus": cpus, **json.loads(table.to_json(orient="index"))})
    draw(trainings)
    print(table.T.to_string(float_format="{:.6g}".format, na_rep="-"))


if __name__ == "__main__":
    main()
