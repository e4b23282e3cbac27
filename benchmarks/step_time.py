"""Milliseconds of one training step of `quick`'s network: as it is now, and as it was in commit 8ecd25a.

python benchmarks/step_time.py [--rounds 5] [--steps 100]     (time_to_accuracy.py calls it)

The old step is Keras's own `train_step` with Keras's batch normalisation, one step an execution, with as many threads
as TensorFlow takes by itself. TensorFlow reads the number of its threads at its start, so each measurement is a process
of its own; old and new take turns. Both work on one batch that lies ready: input and augmentation are not in it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from fmnist_utils import runs

PRECISIONS = ("float32", "mixed_bfloat16")
WARM_UP = 50  # steps


def default_threads():
    """Return the environment variables by which TensorFlow uses the threads that it would use by itself."""
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return {"TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores}


def compiled(params, steps, precision, old=False):
    """Return the network of a parameter file, compiled as notebook 03 does it, or as commit 8ecd25a did.

    steps: of an epoch. precision: see `training_copy`.
    """
    from fmnist_utils._recipe import compiled_network

    changes = {"copy": _old_copy, "steps_per_execution": 1} if old else {}
    return compiled_network({**params, "precision": precision}, steps, **changes)


def _old_copy(model, precision):
    from fmnist_utils._tensorflow import tf

    def clone_layer(layer):
        dtype = "float32" if layer.name in ("image", "probabilities") else precision
        return type(layer).from_config({**layer.get_config(), "dtype": dtype})

    copy = tf.keras.models.clone_model(model, clone_function=clone_layer)
    copy.set_weights(model.get_weights())
    return copy


def ready_batches(x, y):
    """Return an endless iterator over one batch that lies ready."""
    from fmnist_utils._tensorflow import tf

    return iter(tf.data.Dataset.from_tensor_slices((x, y)).batch(len(x)).cache().repeat())


def run_steps(model, batches, steps):
    """Train for so many steps and return the seconds."""
    start = time.perf_counter()
    for _ in range(steps // model.steps_per_execution):
        logs = model.train_function(batches)
    float(logs["loss"])  # computed by now, whatever the device
    return time.perf_counter() - start


def measure(precision, steps, old):
    """Return the milliseconds of a step in this process, the mean of `steps` steps after a warm-up."""
    from fmnist_utils import data
    from fmnist_utils._recipe import read_recipe

    params = read_recipe(runs.ROOT / "params" / "quick.yaml")
    (x, y), _ = data.load_data()
    batches = ready_batches(data.scale(x[: params["batch_size"]]), data.one_hot(y[: params["batch_size"]]))
    model = compiled(params, steps, precision, old)
    model.make_train_function()
    run_steps(model, batches, max(WARM_UP, model.steps_per_execution))
    return 1000 * run_steps(model, batches, steps) / steps


def measure_elsewhere(precision, steps, old):
    """Return what `measure` returns in a process of its own, the old step with TensorFlow's own number of threads."""
    command = [sys.executable, __file__, "--one", precision, "--steps", str(steps), *(["--old"] if old else [])]
    environment = {**os.environ, **(default_threads() if old else {})}
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    return json.loads(printed.splitlines()[-1])


def compare(rounds=5, steps=100):
    """Measure both steps in turn in both precisions.

    Returns {precision: {"old_ms", "new_ms", "ratio"}}, the medians of the rounds; the ratio is that of images a second,
    new to old, within a round.
    """
    measured = {precision: {"old": [], "new": []} for precision in PRECISIONS}
    for number in range(rounds):
        for precision in PRECISIONS:
            for which in ("old", "new") if number % 2 == 0 else ("new", "old"):
                measured[precision][which].append(measure_elsewhere(precision, steps, which == "old"))
    return {precision: summary(**both) for precision, both in measured.items()}


def summary(old, new):
    """Return the medians of the milliseconds of each round, two lists, and of their ratios."""
    ratios = [before / now for before, now in zip(old, new, strict=True)]
    medians = {"old_ms": statistics.median(old), "new_ms": statistics.median(new), "ratio": statistics.median(ratios)}
    return {name: round(value, 2) for name, value in medians.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of a measurement (default: %(default)s)")
    parser.add_argument("--one", choices=PRECISIONS, help=argparse.SUPPRESS)
    parser.add_argument("--old", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.steps, arguments.old)))
        return
    for precision, row in compare(arguments.rounds, arguments.steps).items():
        print(f"{precision:14}  old {row['old_ms']:6.2f} ms   new {row['new_ms']:6.2f} ms   ratio {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
