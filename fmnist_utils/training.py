"""Training: the learning rate's schedule, and what `model.fit` needs besides Keras's own callbacks."""

import json
import time
from pathlib import Path

import numpy as np

from fmnist_utils._environment import code_hash
from fmnist_utils._tensorflow import tf
from fmnist_utils._training_copy import plain_copy, training_copy  # noqa: F401  for notebooks
from fmnist_utils.runs import atomic_write, damage_told

CHECKPOINT = "checkpoint.npz"
EARLY_STOPPING_STATE = ("wait", "stopped_epoch", "best", "best_epoch")


def learning_rate_schedule(schedule: str, learning_rate: float, steps: int):
    """Return what an optimizer takes as its learning rate, for a training of so many steps.

    "one_cycle" rises to `learning_rate` over the first fifth of the steps and falls to 0 as a half cosine (after Smith
    2018, arXiv:1803.09820); "cosine" falls from the start; "constant" stays. Raises ValueError for another.
    """
    if schedule == "constant":
        return learning_rate
    if schedule == "cosine":
        return tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    if schedule == "one_cycle":
        warmup_steps = max(1, steps // 5)
        return tf.keras.optimizers.schedules.CosineDecay(
            learning_rate / 10, max(1, steps - warmup_steps), warmup_target=learning_rate, warmup_steps=warmup_steps
        )
    raise ValueError(f"schedule = {schedule!r}: allowed are one_cycle, cosine, constant")


class Muon(tf.keras.optimizers.Adam):
    """Adam, but for the kernels of all layers but the last Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon).

    A kernel counts as a matrix, (height · width · in, out). Its step is the momentum, with singular values near 1,
    times 0.4 · learning rate · √(longer side): twice what Liu et al. 2025, arXiv:2502.16982, take.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if len(variable.shape) < 2 or index >= len(self._momentums) - 2:  # the last layer has a kernel and a bias
            return super().update_step(gradient, variable, learning_rate)
        momentum = self._momentums[index]
        self.assign(momentum, 0.95 * momentum + gradient)
        x = tf.reshape(gradient + 0.95 * momentum, (-1, variable.shape[-1]))
        x /= tf.norm(x) + 1e-7
        for _ in range(3):  # Newton–Schulz steps; five are usual, three gave no less
            square = tf.matmul(x, x, transpose_a=True)
            x = 3.4445 * x + x @ (2.0315 * square @ square - 4.775 * square)
        length = 0.4 * learning_rate * max(x.shape) ** 0.5
        self.assign_sub(variable, tf.reshape(length * x, variable.shape))


def steps_per_execution(steps_per_epoch: int) -> int:
    """Return how many steps Keras should run before it comes back to Python: an epoch's largest divisor up to 25."""
    return max(n for n in range(1, 26) if steps_per_epoch % n == 0)


class Checkpoint(tf.keras.callbacks.Callback):
    """Save the state after each epoch in `folder`, so that an interrupted `fit` resumes bit for bit; print a line.

    It stands after `early_stopping` in `callbacks`, seeds dropout by (`seed`, epoch), and adds learning_rate and
    seconds to the history. A loss that is not a number ends the training with the weights before. A file of other code
    or `data` (see `runs.start`) is dropped. RunError for another training's, ValueError if `fit` is in another cell.
    """

    def __init__(self, folder, early_stopping, data=0, seed=0):
        super().__init__()
        self.path, self.early_stopping, self.seed = Path(folder) / CHECKPOINT, early_stopping, seed
        self.state, self._arrays, self._last_good = {"next_epoch": 0, "history": {}}, {}, None
        self.code = [code_hash(), int(data)]
        if self.path.exists():
            with damage_told(self.path), np.load(self.path, allow_pickle=False) as file:
                state = json.loads(str(file["state"]))
                if state["code"] == self.code:
                    self.state, self._arrays = state, dict(file)
                else:
                    print("an interrupted training's epochs are dropped: code, a cell, data or TensorFlow have changed")
        self.initial_epoch = self.state["next_epoch"]  # for `fit`; all of them when training had ended

    def on_train_begin(self, logs=None):
        if code_hash() != self.code[0]:
            raise ValueError("make the Checkpoint in the cell that calls fit: by it an interrupted training is known")
        compiled = self.model.get_compile_config()
        del compiled["optimizer"]["config"]["name"]  # in which Keras counts
        trained = [compiled["optimizer"], compiled["loss"], [weight.shape for weight in self.model.weights]]
        self.compiled = json.dumps(trained, sort_keys=True, default=str)
        if self._arrays:
            with damage_told(self.path):
                self._restore()
            print(f"epochs 1 to {len(self.state['history']['loss'])} were trained earlier: it goes on from there")

    def _restore(self):
        if self.state.get("compiled") != self.compiled:
            raise ValueError("it was made with another network, optimizer or loss")
        self.model.optimizer.build(self.model.trainable_variables)
        weights = len(self.model.weights)
        self.model.set_weights([self._arrays[f"weight{i}"] for i in range(weights)])
        for i, variable in enumerate(self.model.optimizer.variables):
            variable.assign(self._arrays[f"optimizer{i}"])
        for name in EARLY_STOPPING_STATE:
            setattr(self.early_stopping, name, self.state[name])
        if "best0" in self._arrays:
            self.early_stopping.best_weights = [self._arrays[f"best{i}"] for i in range(weights)]
        self._last_good, self._arrays = self.model.get_weights(), {}

    def on_epoch_begin(self, epoch, logs=None):
        self.start_time = time.perf_counter()
        for i, layer in enumerate(self.model.layers):
            if hasattr(layer, "seed_generator"):
                state = np.random.SeedSequence([self.seed, epoch, i]).generate_state(2)
                layer.seed_generator.state.assign(state.astype(layer.seed_generator.state.dtype))

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            self.model.stop_training = True
        self.seconds = time.perf_counter() - self.start_time  # the last one counts: validation comes after it

    def on_epoch_end(self, epoch, logs=None):
        shown = [name for name in ("loss", "accuracy", "val_loss", "val_accuracy") if name in logs]
        numbers = [f"{name} {logs[name]:.4f}" for name in shown]  # no seconds: notebooks are stored
        print(f"epoch {epoch + 1:2d}/{self.params['epochs']}", *numbers, sep="   ", flush=True)
        logs |= {"learning_rate": float(self.model.optimizer.learning_rate), "seconds": self.seconds}
        if not np.isfinite([logs[name] for name in shown]).all():
            self.model.stop_training = True
            kept = "with the weights of the epoch before" if self._last_good else "and there is no epoch before"
            self.model.set_weights(self._last_good or self.model.get_weights())
            print(f"epoch {epoch + 1}: the loss is not a number. Training ends, {kept}. Try a smaller learning_rate.")
            return
        self._last_good = self.model.get_weights()
        history = {name: [*self.state["history"].get(name, []), float(value)] for name, value in logs.items()}
        stopping = {name: getattr(self.early_stopping, name) for name in EARLY_STOPPING_STATE}
        next_epoch = self.params["epochs"] if self.model.stop_training else epoch + 1
        stopping |= {"next_epoch": next_epoch, "history": history, "compiled": self.compiled, "code": self.code}
        self.state, arrays = stopping, {f"weight{i}": weight for i, weight in enumerate(self._last_good)}
        arrays |= {f"optimizer{i}": variable.numpy() for i, variable in enumerate(self.model.optimizer.variables)}
        arrays |= {f"best{i}": weight for i, weight in enumerate(self.early_stopping.best_weights or [])}
        self.path.parent.mkdir(parents=True, exist_ok=True)  # `finish` takes it away, and a cell may be run again
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(self.state, default=float)), **arrays)

    def on_train_end(self, logs=None):
        kept = self.state["history"] or self.model.history.history  # an interrupted training's too, no diverged epoch
        self.model.history.history, self.model.history.epoch = kept, list(range(len(kept["loss"])))


def training_summary(history, best_epoch: int, images: int, seed: int) -> dict:
    """Summarise `fit`'s history for metrics.json: `best_epoch` from 1, `images` per epoch; nan without validation."""
    columns, epochs = history.history, len(history.history["loss"])
    seconds = sum(columns["seconds"])
    return {
        **{name: columns.get(name, [np.nan] * epochs)[best_epoch - 1] for name in ("val_accuracy", "val_loss")},
        "best_epoch": best_epoch,
        "epochs_run": epochs,
        "train_seconds": round(seconds, 2),
        "images_per_second": round(images * epochs / seconds, 1),
        "model_parameters": history.model.count_params(),
        "precision": history.model.layers[1].dtype_policy.name,
        "seed": seed,
    }
