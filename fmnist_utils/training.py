"""Training: the learning rate's schedule, and what `model.fit` needs besides Keras's own callbacks."""

import json
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fmnist_utils._progress import Progress
from fmnist_utils._tensorflow import tf
from fmnist_utils._training_copy import plain_copy, training_copy
from fmnist_utils.runs import CHECKPOINT, RunError, written_whole

__all__ = [
    "Checkpoint", "Progress", "learning_rate_schedule", "plain_copy", "steps_per_execution", "training_copy",
    "training_summary",
]  # fmt: skip
MAX_STEPS_PER_EXECUTION = 25
EARLY_STOPPING_STATE = ("wait", "stopped_epoch", "best", "best_epoch")


def learning_rate_schedule(schedule, learning_rate, steps):
    """Return what Adam takes as its learning rate. steps: of the whole training.

    schedule: "one_cycle" climbs to `learning_rate` over the first fifth of all steps and falls to 0 as a half cosine
    (after Smith 2018, arXiv:1803.09820); "cosine" does without the climb; "constant" stays. learning_rate: the peak.
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


def steps_per_execution(steps_per_epoch):
    """Return how many steps Keras should run in one go: the largest divisor of an epoch's steps up to 25.

    Between two goes Keras comes back to Python, which costs time; a go must not reach into the next epoch.
    """
    return max(n for n in range(1, MAX_STEPS_PER_EXECUTION + 1) if steps_per_epoch % n == 0)


class Checkpoint(tf.keras.callbacks.Callback):
    """A callback that keeps each finished epoch in one file, so that an interrupted `fit` goes on exactly.

    folder: of the file; None keeps nothing. early_stopping: the EarlyStopping callback, which stands before this one
    in `callbacks`; its state is kept too. seed: of dropout, whose random numbers come from (seed, epoch).

    Give `fit` this callback and its `initial_epoch`. After each epoch one file with weights, optimizer, early stopping
    and history replaces the one before in one step; an interrupted training ends with the weights and the history of
    an undisturbed one, bit for bit. The history gets two more columns: learning_rate and seconds (of training,
    without validation). An epoch whose loss is not a number ends the training with a message; the weights of the
    epoch before come back, and the file keeps them. Raises RunError for a file that is damaged or of another network.
    """

    def __init__(self, folder, early_stopping, seed=0):
        super().__init__()
        self.path = Path(folder) / CHECKPOINT if folder else None
        self.early_stopping, self.seed = early_stopping, seed
        self.state, self._last_good = {"next_epoch": 0, "history": {}}, None
        if self.path and self.path.exists():
            with self._errors():
                with np.load(self.path, allow_pickle=False) as file:
                    self.arrays = dict(file)
                self.state = json.loads(str(self.arrays.pop("state")))

    @property
    def initial_epoch(self):
        """The epoch, counted from 0, with which `fit` goes on; the number of all epochs when training had ended."""
        return self.state["next_epoch"]

    def on_train_begin(self, logs=None):
        if self.initial_epoch:
            with self._errors():
                self._restore()
            print(f"going on after epoch {self._epochs_done()}, which an earlier training had finished")

    def _restore(self):
        self.model.optimizer.build(self.model.trainable_variables)
        weights = len(self.model.weights)
        self.model.set_weights([self.arrays[f"weight{i}"] for i in range(weights)])
        for i, variable in enumerate(self.model.optimizer.variables):
            variable.assign(self.arrays[f"optimizer{i}"])
        for name in EARLY_STOPPING_STATE:
            setattr(self.early_stopping, name, self.state[name])
        if "best0" in self.arrays:
            self.early_stopping.best_weights = [self.arrays[f"best{i}"] for i in range(weights)]
        self.model.history.history.update({name: list(values) for name, values in self.state["history"].items()})
        self._last_good = self.model.get_weights()

    def _errors(self):
        return _checkpoint_errors(self.path)

    def _epochs_done(self):
        return len(self.state["history"]["loss"])

    def on_epoch_begin(self, epoch, logs=None):
        self.start_time = time.perf_counter()
        for i, layer in enumerate(self.model.layers):
            if hasattr(layer, "seed_generator"):
                state = np.random.SeedSequence([self.seed, epoch, i]).generate_state(2)
                layer.seed_generator.state.assign(state.astype(layer.seed_generator.state.dtype))

    def on_train_batch_end(self, batch, logs=None):
        if "accuracy" not in logs:
            raise ValueError(f"compile the model with metrics=['accuracy']; it has {', '.join(logs)}")
        if not np.isfinite(logs["loss"]):
            self.model.stop_training = True
        self.seconds = time.perf_counter() - self.start_time  # the last one counts: validation comes after it

    def on_epoch_end(self, epoch, logs=None):
        logs |= {"learning_rate": float(self.model.optimizer.learning_rate), "seconds": self.seconds}
        if not np.isfinite([logs["loss"], logs["val_loss"]]).all():
            self.model.stop_training = True
            kept = "with the weights of the epoch before" if self._last_good else "and there is no epoch before"
            self.model.set_weights(self._last_good or self.model.get_weights())
            print(f"the loss is not a number in epoch {epoch + 1}: training ends, {kept}. Try a smaller learning_rate.")
            return
        self._last_good = self.model.get_weights()
        history = {name: [*self.state["history"].get(name, []), float(value)] for name, value in logs.items()}
        stopping = {name: getattr(self.early_stopping, name) for name in EARLY_STOPPING_STATE}
        stopping["best"] = None if stopping["best"] is None else float(stopping["best"])
        next_epoch = self.params["epochs"] if self.model.stop_training else epoch + 1
        self.state = {"next_epoch": next_epoch, "history": history, **stopping}
        if self.path:
            self._save()

    def on_train_end(self, logs=None):
        self.model.history.epoch = list(range(len(self.model.history.history["loss"])))

    def _save(self):
        arrays = {f"weight{i}": weight for i, weight in enumerate(self._last_good)}
        arrays |= {f"optimizer{i}": variable.numpy() for i, variable in enumerate(self.model.optimizer.variables)}
        arrays |= {f"best{i}": weight for i, weight in enumerate(self.early_stopping.best_weights or [])}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(self.state)), **arrays)


@contextmanager
def _checkpoint_errors(path):
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(
            f"the checkpoint {path} is damaged or belongs to another network ({error}). Delete it to train afresh."
        ) from error


def training_summary(history, best_epoch, images, seed):
    """Return a run's metrics.json: what the kept epoch reached on validation images, and what the training cost.

    history: Keras's History. best_epoch: counted from 1. images: their number in an epoch. Seconds are of training
    alone, without validation; the first epoch's have the building of the graph in them.
    """
    columns, epochs = history.history, len(history.history["loss"])
    seconds = sum(columns["seconds"])
    return {
        "val_accuracy": columns["val_accuracy"][best_epoch - 1],
        "val_loss": columns["val_loss"][best_epoch - 1],
        "best_epoch": best_epoch,
        "epochs_run": epochs,
        "train_seconds": round(seconds, 2),
        "images_per_second": round(images * epochs / seconds, 1),
        "model_parameters": history.model.count_params(),
        "precision": history.model.layers[1].dtype_policy.name,
        "seed": seed,
    }
