"""The callback by which an interrupted training goes on exactly where it was."""

import json
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fmnist_utils._files import RunError, atomic_write
from fmnist_utils._run_folder import CHECKPOINT
from fmnist_utils._tensorflow import tf

EARLY_STOPPING_STATE = ("wait", "stopped_epoch", "best", "best_epoch")


class Checkpoint(tf.keras.callbacks.Callback):
    """Keep each finished epoch in one file, so that an interrupted `fit` goes on bit for bit.

    After each epoch one file with weights, optimizer, early stopping and history replaces the one before. Keras's
    `History` gets two more columns: learning_rate, and seconds (of training, without validation). An epoch whose loss
    is not a number ends the training with a message; the weights of the epoch before come back.

    Args:
        folder (Path or None): Of the file; None keeps nothing.
        early_stopping (keras.callbacks.EarlyStopping): It stands before this one in `callbacks`; its state is kept too.
        seed (int): Of dropout, whose random numbers come from (seed, epoch).

    Raises:
        RunError: The file is damaged, or belongs to another network, optimizer or loss.
        ValueError: The model was compiled without the metric "accuracy", or `fit` has no validation_data.
    """

    def __init__(self, folder, early_stopping, seed=0):
        super().__init__()
        self.path = Path(folder) / CHECKPOINT if folder else None
        self.early_stopping, self.seed = early_stopping, seed
        self.state, self._arrays, self._last_good = {"next_epoch": 0, "history": {}}, {}, None
        if self.path and self.path.exists():
            with _checkpoint_errors(self.path), np.load(self.path, allow_pickle=False) as file:
                self._arrays = dict(file)
                self.state = json.loads(str(self._arrays.pop("state")))

    @property
    def initial_epoch(self):
        """For `fit`: how many epochs are done; all of them when training had ended."""
        return self.state["next_epoch"]

    def on_train_begin(self, logs=None):
        """Give model, optimizer, early stopping and history back what an earlier training had reached."""
        self.compiled = _compiled(self.model)
        if self._arrays:
            with _checkpoint_errors(self.path):
                self._restore()
            done = len(self.state["history"]["loss"])
            print(f"going on after epoch {done}, which an earlier training had finished")

    def _restore(self):
        if self.state.get("compiled") != self.compiled:
            raise ValueError("it was made with another optimizer or loss")
        self.model.optimizer.build(self.model.trainable_variables)
        weights = len(self.model.weights)
        self.model.set_weights([self._arrays[f"weight{i}"] for i in range(weights)])
        for i, variable in enumerate(self.model.optimizer.variables):
            variable.assign(self._arrays[f"optimizer{i}"])
        for name in EARLY_STOPPING_STATE:
            setattr(self.early_stopping, name, self.state[name])
        if "best0" in self._arrays:
            self.early_stopping.best_weights = [self._arrays[f"best{i}"] for i in range(weights)]
        self.model.history.history.update({name: list(values) for name, values in self.state["history"].items()})
        self._last_good, self._arrays = self.model.get_weights(), {}

    def on_epoch_begin(self, epoch, logs=None):
        """Seed dropout from (seed, epoch)."""
        self.start_time = time.perf_counter()
        for i, layer in enumerate(self.model.layers):
            if hasattr(layer, "seed_generator"):
                state = np.random.SeedSequence([self.seed, epoch, i]).generate_state(2)
                layer.seed_generator.state.assign(state.astype(layer.seed_generator.state.dtype))

    def on_train_batch_end(self, batch, logs=None):
        """Refuse a model without the metric "accuracy", end a training whose loss is not a number, take the time."""
        if "accuracy" not in logs:
            raise ValueError(f"compile the model with metrics=['accuracy']; it has {', '.join(logs)}")
        if not np.isfinite(logs["loss"]):
            self.model.stop_training = True
        self.seconds = time.perf_counter() - self.start_time  # the last one counts: validation comes after it

    def on_epoch_end(self, epoch, logs=None):
        """Write the file, unless the loss is not a number; refuse a training without validation."""
        if "val_loss" not in logs:
            raise ValueError("give fit its validation_data: without them no epoch can be chosen")
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
        self.state = {"next_epoch": next_epoch, "history": history, "compiled": self.compiled, **stopping}
        if self.path:
            self._save()

    def on_train_end(self, logs=None):
        """Let the history count its epochs from the first one on, those of an earlier training included."""
        self.model.history.epoch = list(range(len(self.model.history.history["loss"])))

    def _save(self):
        arrays = {f"weight{i}": weight for i, weight in enumerate(self._last_good)}
        arrays |= {f"optimizer{i}": variable.numpy() for i, variable in enumerate(self.model.optimizer.variables)}
        arrays |= {f"best{i}": weight for i, weight in enumerate(self.early_stopping.best_weights or [])}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(self.state)), **arrays)


def _compiled(model):
    """Describe optimizer and loss; not the optimizer's name, in which Keras counts."""
    compiled = model.get_compile_config()
    del compiled["optimizer"]["config"]["name"]
    return json.dumps([compiled["optimizer"], compiled["loss"]], sort_keys=True, default=str)


@contextmanager
def _checkpoint_errors(path):
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(
            f"the checkpoint {path} is damaged or belongs to another training ({error}). Delete it to train afresh."
        ) from error
