"""Seconds of training until a validation accuracy is reached: our recipes and those people would use instead.

python benchmarks/time_to_accuracy.py [--only plain quick …] [--seeds 3]     (`make bench` runs all of it)

Every recipe trains on one stratified split, in a process of its own, one after the other. Ours are what papermill gets
from notebook 03 and a parameter file; the others are written here. Each finished training is kept in
benchmarks/results/trainings/, and ours have a checkpoint an epoch, so the command goes on where it was stopped.
Seconds are of training alone. The test set is evaluated once, at the end, with the weights that the recipe keeps;
nothing is chosen on it. The recipes of others get TensorFlow's own number of threads. Of Hands-On ML's network, to save
hours, one epoch is trained and the seconds are extrapolated; its file says so.

The rest of what a user waits for is measured beside it: `fit_overhead`, see there, and step_time.py.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import step_time

from fmnist_utils import _environment, _files, pipeline, plots, runs

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TRAININGS = RESULTS / "trainings"
RUNS = HERE / "runs"  # not committed
OURS = ("quick", "full", "record")
THEIRS = ("plain", "tensorflow_basic", "keras_convnet", "hands_on_ml")
SEEDS = {
    "quick": 5, "full": 5, "record": 2, "plain": 3, "tensorflow_basic": 1, "keras_convnet": 1, "hands_on_ml": 1,
}  # fmt: skip
EXTRAPOLATED = {"hands_on_ml": 1}  # epochs that are trained
GOAL = 0.93


def their_recipe(name):
    """Return an uncompiled network, its optimizer, batch size and epochs: written from the published settings."""
    from fmnist_utils._tensorflow import tf

    layers, adam = tf.keras.layers, tf.keras.optimizers.Adam(0.001)
    if name == "plain":  # the brief, as anyone would write it down
        parts = [
            part
            for filters in (32, 64, 128)
            for part in (
                layers.Conv2D(filters, 3, padding="same", activation="relu"),
                layers.BatchNormalization(),
                layers.Conv2D(filters, 3, padding="same", activation="relu"),
                layers.BatchNormalization(),
                layers.MaxPooling2D(),
                layers.Dropout(0.25),
            )
        ]
        parts += [layers.GlobalAveragePooling2D(), layers.Dense(128, activation="relu")]
        parts += [layers.BatchNormalization(), layers.Dropout(0.5)]
        settings = adam, 64, 50
    elif name == "tensorflow_basic":  # tensorflow.org/tutorials/keras/classification
        parts, settings = [layers.Flatten(), layers.Dense(128, activation="relu")], (adam, 32, 10)
    elif name == "keras_convnet":  # keras.io/examples/vision/mnist_convnet
        parts = [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()]
        parts += [layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(0.5)]
        settings = adam, 128, 15
    elif name == "hands_on_ml":  # Géron, Hands-On Machine Learning, 3rd edition, chapter 14
        conv = {"kernel_size": 3, "padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
        parts = [layers.Conv2D(64, **{**conv, "kernel_size": 7}), layers.MaxPooling2D()]
        for filters in (128, 256):
            parts += [layers.Conv2D(filters, **conv), layers.Conv2D(filters, **conv), layers.MaxPooling2D()]
        parts += [layers.Flatten()]
        for units in (128, 64):
            parts += [layers.Dense(units, activation="relu", kernel_initializer="he_normal"), layers.Dropout(0.5)]
        settings = tf.keras.optimizers.Nadam(0.001), 32, 10
    model = tf.keras.Sequential([tf.keras.Input((28, 28, 1)), *parts, layers.Dense(10, activation="softmax")])
    return model, *settings


def train_ours(name, seed):
    """Run notebook 03 with one of our parameter files and another seed; return what is to be known of it."""
    from fmnist_utils import data, evaluation
    from fmnist_utils._recipe import read_recipe

    run_name = f"{name}-{seed}"
    values = {**read_recipe(runs.ROOT / "params" / f"{name}.yaml"), "seed": seed}
    values |= {"run_name": run_name, "runs_dir": str(RUNS)}
    RUNS.mkdir(exist_ok=True)
    pipeline.execute(pipeline.TRAINING, values, RUNS / f"{run_name}.ipynb", run_name)
    run = runs.find(run_name, RUNS)
    model = evaluation.load_model(run.folder / runs.MODEL)
    (_, y_raw), (x_test, y_test) = data.load_data()
    train_index, _ = data.stratified_split(
        y_raw, values["validation_fraction"], values["split_seed"], values["train_size"]
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "precision": runs.read_metrics(run)["precision"],
        **facts(name, seed, model, runs.read_history(run), len(train_index), peak),
        "best_epoch": runs.read_metrics(run)["best_epoch"],
        "test_accuracy": float(np.mean(evaluation.predict(model, data.scale(x_test)).argmax(axis=1) == y_test)),
        "environment": runs.read_metrics(run, runs.ENVIRONMENT),
    }


def train_theirs(name, seed):
    """Train one of the other recipes with one seed and return what is to be known of it."""
    from fmnist_utils import data, evaluation
    from fmnist_utils._tensorflow import tf

    (x_raw, y_raw), (x_test, y_test) = data.load_data()
    train_index, valid_index = data.stratified_split(y_raw, 0.2, 0)
    x_train, y_train = data.scale(x_raw[train_index]), data.one_hot(y_raw[train_index])
    x_valid, y_valid = data.scale(x_raw[valid_index]), data.one_hot(y_raw[valid_index])
    tf.keras.utils.set_random_seed(seed)
    model, optimizer, batch_size, epochs = their_recipe(name)
    model.compile(optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    watch = Watch()
    stop = tf.keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True)
    fitted = model.fit(
        x_train, y_train, batch_size=batch_size, epochs=EXTRAPOLATED.get(name, epochs), verbose=0,
        validation_data=(x_valid, y_valid), validation_batch_size=1000,
        callbacks=[watch.callback(), *([stop] if name == "plain" else [])],
    )  # fmt: skip
    history = pd.DataFrame(fitted.history).assign(seconds=watch.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = facts(name, seed, model, history, len(x_train), peak)
    if name in EXTRAPOLATED:
        result["train_seconds"] *= epochs / EXTRAPOLATED[name]
        result["extrapolated_from_epochs"] = EXTRAPOLATED[name]
    else:
        y_prob = evaluation.predict(model, data.scale(x_test))
        result["test_accuracy"] = float(np.mean(y_prob.argmax(axis=1) == y_test))
    best = stop.best_epoch + 1 if name == "plain" else len(history)
    return {**result, "best_epoch": int(best), "environment": _environment.environment()}


def facts(name, seed, model, history, images, peak_kilobytes):
    """Return what a training's file holds of every recipe. images: their number in an epoch."""
    seconds = history["seconds"].cumsum()
    return {
        "recipe": name,
        "seed": seed,
        "val_accuracy": history["val_accuracy"].round(6).tolist(),
        "accuracy": history["accuracy"].round(6).tolist(),
        "seconds": seconds.round(2).tolist(),
        "train_seconds": float(seconds.iloc[-1]),
        "images_per_second": float(images * len(history) / seconds.iloc[-1]),
        "model_parameters": model.count_params(),
        "gflop_per_image": 6 * multiply_adds(model) / 1e9,
        "peak_memory_mb": peak_kilobytes / 1024,
    }


class Watch:
    """Seconds of each epoch's training, without its validation."""

    def __init__(self):
        self.seconds = []

    def callback(self):
        from fmnist_utils._tensorflow import tf

        def begin(epoch, logs):
            self.began = time.perf_counter()

        def batch_end(batch, logs):
            self.now = time.perf_counter()

        def end(epoch, logs):
            self.seconds.append(self.now - self.began)
            print(f"epoch {epoch + 1}: {logs['val_accuracy']:.4f} after {sum(self.seconds):.0f} s", flush=True)

        callback = tf.keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
        callback.on_train_batch_end = batch_end
        return callback


def multiply_adds(model):
    """Count one image's multiply-adds in convolutions and dense layers; training does three times as many."""
    from fmnist_utils.model import layer_costs

    return int(layer_costs(model)["multiply_adds"].sum())


def fit_overhead(rounds=5, images=0, folder=None):
    """Measure all that a user of the quick recipe waits for beside the train steps.

    rounds: epochs that count, after a first one. images: of an epoch, 0 for all of the training split. folder: of the
    checkpoint that each epoch writes; None writes none. After each epoch of one `fit` as notebook 03 has it, the same
    number of bare steps runs on one batch that lies ready, with as many steps an execution. Returns medians:
    `fit_overhead`, what an epoch takes longer than its bare steps (input, augmentation, callbacks, Python), as a share
    of these; `validation_seconds` of an epoch; and `graph_seconds`, by which the first epoch, from the building of the
    network on, took longer than a later one. The building is in none of the others.
    """
    from fmnist_utils import data, training
    from fmnist_utils._recipe import read_recipe
    from fmnist_utils._tensorflow import tf
    from fmnist_utils.augmentation import augmented_batches

    params = read_recipe(runs.ROOT / "params" / "quick.yaml")
    (x_raw, y_raw), _ = data.load_data()
    train_index, valid_index = data.stratified_split(
        y_raw, params["validation_fraction"], params["split_seed"], images or params["train_size"]
    )
    x_train, y_train = data.scale(x_raw[train_index]), data.one_hot(y_raw[train_index])
    x_valid, y_valid = data.scale(x_raw[valid_index]), data.one_hot(y_raw[valid_index])
    batch_size, epochs = params["batch_size"], rounds + 1
    steps = -(-len(x_train) // batch_size)
    ready = step_time.ready_batches(x_train[:batch_size], y_train[:batch_size])

    start = time.perf_counter()
    model = step_time.compiled({**params, "epochs": epochs}, steps, params["precision"])
    never = tf.keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)
    checkpoint = training.Checkpoint(folder, never, params["seed"])
    changes = {name: params[name] for name in ("augment", "max_shift", "seed")}
    batches = augmented_batches(x_train, y_train, batch_size, epochs=epochs, **changes)
    times = {name: [] for name in ("epoch", "trained", "validated", "end", "bare")}

    def note(name):
        return lambda *_: times[name].append(time.perf_counter())

    def bare(epoch, logs):
        times["end"].append(time.perf_counter())
        times["bare"].append(step_time.run_steps(model, ready, steps))

    first = tf.keras.callbacks.LambdaCallback(on_epoch_begin=note("epoch"), on_epoch_end=note("validated"))
    first.on_test_begin = note("trained")
    last = tf.keras.callbacks.LambdaCallback(on_epoch_end=bare)
    model.fit(
        batches, steps_per_epoch=steps, epochs=epochs, validation_data=(x_valid, y_valid), validation_batch_size=1000,
        callbacks=[first, never, checkpoint, training.Progress(), last], shuffle=False, verbose=0,
    )  # fmt: skip
    began, trained, validated, ended, bare_seconds = (np.array(times[name][-rounds:]) for name in times)
    validation = validated - trained
    return {
        "fit_overhead": round(float(np.median((ended - began - validation) / bare_seconds)) - 1, 3),
        "validation_seconds": round(float(np.median(validation)), 2),
        "graph_seconds": round(times["end"][0] - start - float(np.median(ended - began)), 2),
    }


def matrix_peak():
    """Measure the machine's float32 matrix product: GFLOP/s, median of 15 products of 2048 × 2048."""
    a = np.random.default_rng(0).random((2048, 2048), dtype="float32")
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return 2 * 2048**3 / float(np.median(seconds)) / 1e9


def seconds_to(goal, training):
    """Return the seconds until validation accuracy first reached `goal`, and whether it did; else all its seconds."""
    for accuracy, seconds in zip(training["val_accuracy"], training["seconds"], strict=True):
        if accuracy >= goal:
            return seconds, True
    return training["seconds"][-1], False


def summarize(trainings, peak):
    """Return what time_to_accuracy.json holds: a summary a recipe, and the ratio of the plain recipe to ours.

    A seed that never reached the goal counts with all its seconds, so that a time and the ratio are at least that.
    """
    cpus = sorted({training["environment"]["cpu"] for training in trainings})
    result = {"goal": GOAL, "matrix_product_gflops": round(peak, 1), "cpu": ", ".join(cpus)}
    result |= {"cores": trainings[0]["environment"]["cores"], "system": platform.system()}
    for name in dict.fromkeys(training["recipe"] for training in trainings):
        runs_of = [training for training in trainings if training["recipe"] == name]
        test = np.array([training["test_accuracy"] for training in runs_of if "test_accuracy" in training])
        to_goal = [seconds_to(GOAL, training) for training in runs_of]
        epoch_seconds = np.concatenate([np.diff(training["seconds"], prepend=0) for training in runs_of])
        speed = float(np.median([training["images_per_second"] for training in runs_of]))
        result[name] = {
            "seeds": [training["seed"] for training in runs_of],
            "test_accuracy_mean": round(float(test.mean()), 5) if len(test) else None,
            "test_accuracy_std": round(float(test.std(ddof=1)), 5) if len(test) > 1 else None,
            "val_accuracy_mean": round(float(np.mean([t["val_accuracy"][t["best_epoch"] - 1] for t in runs_of])), 5),
            "train_seconds_median": round(float(np.median([training["train_seconds"] for training in runs_of])), 1),
            "epoch_seconds_median": round(float(np.median(epoch_seconds)), 2),
            "seconds_to_goal_median": round(float(np.median([seconds for seconds, _ in to_goal])), 1),
            "reached_goal": [reached for _, reached in to_goal],
            "images_per_second": round(speed, 1),
            "share_of_matrix_peak": round(speed * runs_of[0]["gflop_per_image"] / peak, 3),
            "peak_memory_mb": round(max(training["peak_memory_mb"] for training in runs_of)),
            "gflop_per_image": round(runs_of[0]["gflop_per_image"], 4),
            "model_parameters": runs_of[0]["model_parameters"],
            "precision": runs_of[0].get("precision", "float32"),
        }
    ours = [
        result[name]["seconds_to_goal_median"] for name in OURS if name in result and all(result[name]["reached_goal"])
    ]
    if "plain" in result and any(result["plain"]["reached_goal"]) and ours:
        result["ratio_to_93"] = round(result["plain"]["seconds_to_goal_median"] / min(ours), 2)
    return result


def draw(trainings, path):
    """Draw validation accuracy against seconds of training, a line a training, logarithmic time."""
    plots.use_style()
    ax = plt.subplots(figsize=(9, 5))[1]
    colors = dict(
        zip(
            dict.fromkeys(t["recipe"] for t in trainings),
            plt.rcParams["axes.prop_cycle"].by_key()["color"],
            strict=False,
        )
    )
    for training in trainings:
        label = training["recipe"].replace("_", " ") if training["seed"] == 0 else None
        ax.plot(
            training["seconds"], training["val_accuracy"], ".-", color=colors[training["recipe"]], lw=1.2, label=label
        )
    ax.axhline(GOAL, color="#555555", linestyle=":", linewidth=1)
    ax.set(xscale="log", xlabel="seconds of training (logarithmic)", ylabel="validation accuracy", ylim=(0.8, 0.96))
    ax.legend(loc="lower right")
    plots.save_figure(ax, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=OURS + THEIRS, default=OURS + THEIRS, help="recipes to train")
    parser.add_argument("--seeds", type=int, help=f"of each recipe (default: {SEEDS})")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    TRAININGS.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        name, seed = arguments.one[0], int(arguments.one[1])
        train = train_ours if name in OURS else train_theirs
        _files.write_json(TRAININGS / f"{name}-{seed}.json", train(name, seed))
        return
    for name in arguments.only:
        for seed in range(arguments.seeds or SEEDS[name]):
            if not (TRAININGS / f"{name}-{seed}.json").exists():
                print(f"--- {name}, seed {seed}", flush=True)
                environment = {**os.environ, **(step_time.default_threads() if name in THEIRS else {})}
                subprocess.run([sys.executable, __file__, "--one", name, str(seed)], env=environment, check=True)
    trainings = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(TRAININGS.glob("*.json"))]
    result = summarize(trainings, matrix_peak())
    with tempfile.TemporaryDirectory() as folder:
        result |= fit_overhead(folder=folder)
    result["step"] = step_time.compare()
    result["step_ratio"] = {precision: row["ratio"] for precision, row in result["step"].items()}
    _files.write_json(RESULTS / "time_to_accuracy.json", result)
    draw(trainings, RESULTS / "time_to_accuracy.png")
    table = pd.DataFrame({name: result[name] for name in OURS + THEIRS if name in result}).T
    print(table.drop(columns="seeds").to_string())
    print("plain recipe / ours, seconds to 93 %:", result.get("ratio_to_93", "not measured"))
    print(f"fit's overhead beyond the train steps: {result['fit_overhead']:.1%}")
    print(f"building the graph: {result['graph_seconds']} s; validation: {result['validation_seconds']} s an epoch")
    print("images a second, this step / that of 8ecd25a:", result["step_ratio"])


if __name__ == "__main__":
    main()
