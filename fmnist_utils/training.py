"""Training: the optimizer's schedule, augmented batches, early stopping, a checkpoint each epoch, and progress."""

import json
import os
import time
import zipfile
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from fmnist_utils.quiet import tf
from fmnist_utils.runs import CHECKPOINT, RunError, written_whole

callbacks = tf.keras.callbacks
BAR_SECONDS = 0.5  # at least this long between two moves of the progress bar
CURVE_POINTS = 300  # of the live curve, at most
SHIFT = 1  # pixels, the farthest
FIRST_EPOCHS, LAST_SHARE = 1, 1 / 8  # these first and this share of last epochs show all images, whatever `skip_easy`
MAKE_ROOM = 1 / 3  # of the hard images, the surest, that let others in before the next epoch
ERASED_SHARE, ERASED_SIDE = 0.5, (6, 15)  # of the images; pixels, lowest and one past the highest


def steps_of_epochs(images, batch_size, epochs, skip_easy=0.0):
    """Return the number of steps of each epoch, a list. images: how many there are to train on; see `fit`."""
    skipping = _epochs_that_skip(epochs, skip_easy)
    shown = [_number_shown(images, skip_easy) if epoch in skipping else images for epoch in range(epochs)]
    return [-(-count // batch_size) for count in shown]


def _epochs_that_skip(epochs, skip_easy):
    """Return the range of epochs, counted from 0, that leave images out."""
    last = epochs - max(1, round(LAST_SHARE * epochs))
    return range(FIRST_EPOCHS, last) if skip_easy and last > FIRST_EPOCHS else range(0)


def _number_shown(images, skip_easy):
    return max(1, images - int(skip_easy * images))


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
        climb = max(1, steps // 5)
        return tf.keras.optimizers.schedules.CosineDecay(
            learning_rate / 10, max(1, steps - climb), warmup_target=learning_rate, warmup_steps=climb
        )
    raise ValueError(f"schedule = {schedule!r}: allowed are one_cycle, cosine, constant")


def hardest(rank, skip_easy):
    """Return the sorted positions of the images to show, those of the lowest rank. rank: (n,), see `rank_again`."""
    return np.sort(np.argsort(rank, kind="stable")[: _number_shown(len(rank), skip_easy)])


def rank_again(rank, shown, sure, skip_easy):
    """Put the images of one batch, at the positions `shown`, into an order of how sure the network is of them.

    rank: (n,) of all training images, changed in place; 0 is the hardest, 1 the easiest. sure: the probability of
    each shown image's class, from the step that showed it. Images are compared within their batch, since a network
    is surer of everything at the end of an epoch than at its start. When a batch has hard images only, their ranks
    reach beyond the limit of what is shown, so that a share of them, MAKE_ROOM, makes room.
    """
    reach = min(1.0, (1 - skip_easy) / (1 - MAKE_ROOM))
    rank[shown] = reach * np.argsort(np.argsort(sure, kind="stable"), kind="stable") / len(sure)


def augment_batch(x, augment, random, mirrored):
    """Return a changed copy of a batch of images: mirrored, shifted, or with a rectangle erased.

    x: (n, 28, 28, 1) float32. augment: "none", "flip", "flip_shift" (by up to SHIFT pixels, zeros come in), or
    "flip_shift_erase" (half of the images lose a rectangle to a grey; Zhong et al. 2017, arXiv:1708.04896). random: a
    NumPy Generator. mirrored: (n,) bool, which images to mirror. Returns an array like x.
    """
    x = _shift(x, random) if "shift" in augment else x.copy()
    if augment != "none":
        x[mirrored] = x[mirrored, :, ::-1]
    return _erase(x, random) if "erase" in augment else x


def _shift(x, random):
    n, height, width, _ = x.shape
    top, left = random.integers(0, 2 * SHIFT + 1, (2, n, 1))
    padded = np.pad(x, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
    rows, columns = top + np.arange(height), left + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _erase(x, random):
    n, height, width, _ = x.shape
    sides = random.integers(*ERASED_SIDE, (2, n, 1))
    top, left = random.integers(0, [[[height]], [[width]]] - sides + 1)
    rows, columns = np.arange(height), np.arange(width)
    hit = random.random((n, 1, 1)) < ERASED_SHARE
    inside = ((rows >= top) & (rows < top + sides[0]))[:, :, None] & ((columns >= left) & (columns < left + sides[1]))[
        :, None, :
    ]
    grey = random.random((n, 1, 1, 1), dtype="float32")
    return np.where((inside & hit)[..., None], grey, x)


class Batches(tf.keras.utils.PyDataset):
    """The training images in shuffled, augmented batches; epoch k gives the same ones whenever it is run.

    Everything random comes from (seed, epoch, batch), so a training that goes on after an interruption sees what it
    would have seen. An image is mirrored in every other epoch, which shows it both ways more evenly than a coin does.
    """

    def __init__(self, x, y, batch_size, augment="none", seed=0):
        super().__init__()
        self.x, self.y, self.batch_size, self.augment, self.seed = x, y, batch_size, augment, seed
        self._mirrored_first = np.random.default_rng(seed).random(len(x)) < 0.5
        self.start_epoch(0)

    def start_epoch(self, epoch, shown=None):
        """Shuffle for epoch 0, 1, 2, … all images, or only those at the positions `shown`."""
        self.epoch = epoch
        self.order = np.random.default_rng([self.seed, epoch]).permutation(len(self.x) if shown is None else shown)

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, batch):
        index = self.order[batch * self.batch_size : (batch + 1) * self.batch_size]
        random = np.random.default_rng([self.seed, self.epoch, batch])
        mirrored = self._mirrored_first[index] ^ (self.epoch % 2 == 1)
        return augment_batch(self.x[index], self.augment, random, mirrored), self.y[index]


def fit(
    model, x_train, y_train, x_valid, y_valid, *, epochs, batch_size, patience,
    early_stopping=True, augment="none", skip_easy=0.0, seed=0, folder=None,
):  # fmt: skip
    """Train a compiled model with early stopping; go on where an earlier call with the same `folder` was stopped.

    x_train, x_valid: (n, 28, 28, 1) float32 in [0, 1]; y_train, y_valid: (n, 10) one-hot. epochs: the most that are
    run. patience: epochs without a lower validation loss before it stops. early_stopping: also brings back the
    weights of the epoch with the lowest validation loss; without it the last ones stay. augment: see `augment_batch`.
    skip_easy: share of the training images that most epochs leave out: those whose class the model was surest of when
    it last saw them, which each step computes anyway (after Jiang et al. 2019, arXiv:1910.00762). The first epoch and
    the last eighth, at least one, show all (keeping old scores, and the last epochs, as Qin et al. 2024,
    arXiv:2303.04947).
    seed: of order, augmentation and dropout. folder: of the checkpoint, or None for no checkpoint.

    After each epoch one file with weights, optimizer, early stopping and history replaces the one before in one step,
    and each epoch draws its random numbers from (seed, epoch): so an interrupted training ends with the weights of
    an undisturbed one. Returns a frame, a row an epoch: epoch, loss, accuracy, val_loss, val_accuracy, learning_rate,
    seconds (of training, without validation), images (shown). Its attrs["best_epoch"] is the epoch whose
    weights the model holds, attrs["precision"] what it computed in.
    """
    batches = Batches(x_train, y_train, batch_size, augment, seed)
    stopping = callbacks.EarlyStopping(
        "val_loss", patience=patience if early_stopping else epochs, restore_best_weights=early_stopping
    )
    stopping.on_train_end = lambda logs=None: None  # Keras would put the best weights back after each of the three fits
    skipping = _epochs_that_skip(epochs, skip_easy)
    keeper = _Keeper(folder, stopping, batches, skip_easy, skipping, seed)
    keeper.set_model(model)
    keeper.restore()
    progress = _Progress(steps_of_epochs(len(x_train), batch_size, epochs, skip_easy), keeper)
    with _sureness(model, batch_size) if skipping else nullcontext() as keeper.sure:
        for last in (skipping.start, skipping.stop, epochs):  # Keras wants epochs of one length in one fit
            done = len(keeper.rows)
            if done < last and not keeper.stopped:
                batches.start_epoch(done, keeper.shown_in(done))
                model.fit(
                    batches, validation_data=(x_valid, y_valid), validation_batch_size=1000, epochs=last,
                    initial_epoch=done, shuffle=False, verbose=0, callbacks=[stopping, keeper, progress],
                )  # fmt: skip
    progress.close()
    if early_stopping:
        model.set_weights(stopping.best_weights)
    history = pd.DataFrame(keeper.rows)
    history.attrs["best_epoch"] = int(stopping.best_epoch) + 1 if early_stopping else len(history)
    history.attrs["precision"] = model.layers[1].dtype_policy.name
    return history


def summarize(model, history, seed):
    """Return a run's metrics.json: what the kept epoch reached on validation images, and what the training cost.

    history: frame from `fit`. Seconds are of training alone, without validation.
    """
    kept = history.iloc[history.attrs["best_epoch"] - 1]
    seconds = float(history["seconds"].sum())
    return {
        "val_accuracy": float(kept["val_accuracy"]),
        "val_loss": float(kept["val_loss"]),
        "best_epoch": history.attrs["best_epoch"],
        "epochs_run": len(history),
        "train_seconds": round(seconds, 2),
        "images_per_second": round(float(history["images"].sum()) / seconds, 1),
        "model_parameters": model.count_params(),
        "precision": history.attrs["precision"],
        "seed": seed,
    }


@contextmanager
def _sureness(model, batch_size):
    """Yield a variable where each training step leaves the probabilities of its images' classes, then zeros."""
    sure = tf.Variable(tf.zeros(batch_size), trainable=False)
    compute_loss = model.compute_loss

    def listening(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            probability = tf.reduce_sum(tf.cast(y, "float32") * tf.cast(y_pred, "float32"), axis=1)
            sure.assign(tf.pad(probability, [[0, batch_size - tf.shape(probability)[0]]]))
        return compute_loss(x, y, y_pred, sample_weight, training)

    model.compute_loss, model.train_function = listening, None  # Keras builds its step again
    try:
        yield sure
    finally:
        del model.compute_loss
        model.train_function = None


class _Keeper(callbacks.Callback):
    """Seeds each epoch, times it, and keeps all that the training needs to go on in one file."""

    def __init__(self, folder, stopping, batches, skip_easy, skipping, seed):
        super().__init__()
        self.path = Path(folder) / CHECKPOINT if folder else None
        self.stopping, self.batches, self.seed = stopping, batches, seed
        self.skip_easy, self.skipping = skip_easy, skipping
        self.rows, self.stopped, self.stopping_state = [], False, {}
        self.sure, self.rank = None, np.zeros(len(batches.x))  # of the last step's images; of all

    def restore(self):
        """Load the checkpoint, if there is one. Raises RunError."""
        if self.path and self.path.exists():
            try:
                self._load()
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise RunError(
                    f"the checkpoint {self.path} is damaged or belongs to another network ({error}). "
                    "Delete it to train afresh."
                ) from error
            self._restore_stopping()

    def shown_in(self, epoch):
        """Return the positions of the images that an epoch shows, None for all."""
        return hardest(self.rank, self.skip_easy) if epoch in self.skipping else None

    def _load(self):
        self.model.optimizer.build(self.model.trainable_variables)
        with np.load(self.path, allow_pickle=False) as kept:
            self.model.set_weights([kept[f"weight{i}"] for i in range(len(self.model.weights))])
            for i, variable in enumerate(self.model.optimizer.variables):
                variable.assign(kept[f"optimizer{i}"])
            state = json.loads(str(kept["state"]))
            best = [kept[f"best{i}"] for i in range(len(self.model.weights))] if "best0" in kept else None
            self.rank = kept["rank"]
        self.rows, self.stopped = state["rows"], state["stopped"]
        self.stopping_state = {**state["stopping"], "best_weights": best}

    def _restore_stopping(self):
        for name, value in self.stopping_state.items():
            setattr(self.stopping, name, value)

    def on_train_begin(self, logs=None):
        self._restore_stopping()  # Keras's callback has just forgotten it

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.epoch = time.perf_counter(), epoch
        self.batches.start_epoch(epoch, self.shown_in(epoch))
        for i, layer in enumerate(self.model.layers):
            if hasattr(layer, "seed_generator"):  # dropout: its random numbers, too, come from (seed, epoch)
                state = np.random.SeedSequence([self.seed, epoch, i]).generate_state(2)
                layer.seed_generator.state.assign(state.astype(layer.seed_generator.state.dtype))

    def on_train_batch_end(self, batch, logs=None):
        if self.sure is not None:
            size = self.batches.batch_size
            shown = self.batches.order[batch * size : (batch + 1) * size]
            skipped = self.skip_easy if self.epoch in self.skipping else 0.0
            rank_again(self.rank, shown, self.sure.numpy()[: len(shown)], skipped)
        self.seconds = time.perf_counter() - self.began  # the last one counts: validation comes after it

    def on_epoch_end(self, epoch, logs=None):
        rate = float(self.model.optimizer.learning_rate)
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        scores = {name: float(logs[name]) for name in names}
        cost = {"seconds": self.seconds, "images": len(self.batches.order)}
        self.rows.append({"epoch": epoch + 1, **scores, "learning_rate": rate, **cost})
        self.stopped = bool(self.model.stop_training)
        names = ("wait", "stopped_epoch", "best", "best_epoch", "best_weights")
        self.stopping_state = {name: getattr(self.stopping, name) for name in names}
        if self.path:
            self._save()

    def _save(self):
        stopping = {name: value for name, value in self.stopping_state.items() if name != "best_weights"}
        stopping["best"] = None if stopping["best"] is None else float(stopping["best"])
        arrays = {f"weight{i}": w for i, w in enumerate(self.model.get_weights())}
        arrays |= {f"optimizer{i}": v.numpy() for i, v in enumerate(self.model.optimizer.variables)}
        arrays |= {f"best{i}": w for i, w in enumerate(self.stopping.best_weights or [])}
        arrays["rank"] = self.rank
        arrays["state"] = np.array(json.dumps({"rows": self.rows, "stopped": self.stopped, "stopping": stopping}))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)


class _Progress(callbacks.Callback):
    """In JupyterLab a bar and a loss curve that move, with the time left; elsewhere one line an epoch."""

    def __init__(self, steps, keeper):
        super().__init__()
        self.steps, self.epochs, self.keeper = steps, len(steps), keeper  # steps: of each epoch
        self.bar = display(HTML(""), display_id=True) if os.environ.get("JPY_SESSION_NAME") else None
        self.shown, self.began = 0.0, None
        self.curve = []  # (steps done, mean training loss of the epoch up to there), at some moves of the bar

    def on_train_begin(self, logs=None):
        if self.began is None:
            done = len(self.keeper.rows)
            self.began, self.done, self.before = time.perf_counter(), sum(self.steps[:done]), sum(self.steps[:done])
            if done:
                print(f"going on after epoch {done}, which an earlier training had finished")

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        now = time.perf_counter()
        if self.bar and now - self.shown > BAR_SECONDS:
            self.shown = now
            if not self.curve or self.done - self.curve[-1][0] >= sum(self.steps) / CURVE_POINTS:
                self.curve.append((self.done, float(logs["loss"])))
            left = round((sum(self.steps) - self.done) * (now - self.began) / (self.done - self.before))
            self._draw(self.done, f"about {left // 60} min {left % 60:02d} s left")

    def on_epoch_end(self, epoch, logs=None):
        # written without seconds: a notebook is stored with these lines
        print(
            f"epoch {epoch + 1:2d}/{self.epochs}   loss {logs['loss']:.4f}   accuracy {logs['accuracy']:.4f}   "
            f"val_loss {logs['val_loss']:.4f}   val_accuracy {logs['val_accuracy']:.4f}",
            flush=True,
        )

    def close(self):
        """Say that the training is done."""
        if self.bar:
            self._draw(sum(self.steps), "done")

    def _draw(self, step, text):
        whole = sum(self.steps)
        bar = f'<progress value="{step}" max="{whole}" style="width: 60%"></progress>'
        ends = np.cumsum(self.steps)
        valid = [(ends[row["epoch"] - 1], row["val_loss"]) for row in self.keeper.rows]
        self.bar.update(HTML(f"{bar} {100 * step / whole:.0f} %, {text}<br>{_loss_curve(self.curve, valid, whole)}"))


def _loss_curve(train, valid, steps):
    """Return a small SVG: a line through `train` and dots at `valid`, lists of (step, loss); steps: the whole width."""
    losses = [loss for _, loss in train + valid if np.isfinite(loss)]
    low, high = min(losses, default=0), max(losses, default=1)

    def place(step, loss):
        return f"{10 + 480 * step / steps:.1f},{100 - 90 * (loss - low) / (high - low or 1):.1f}"

    line = " ".join(place(*point) for point in train if np.isfinite(point[1]))
    dots = [place(*point).split(",") for point in valid if np.isfinite(point[1])]
    circles = "".join(f'<circle cx="{x}" cy="{y}" r="4" fill="#D55E00"/>' for x, y in dots)
    return (
        f'<svg viewBox="0 0 500 110" style="width: 60%"><polyline points="{line}" fill="none" stroke="#0072B2" '
        f'stroke-width="2"/>{circles}</svg><br>loss, between {low:.2f} and {high:.2f}: '
        '<span style="color: #0072B2">training, so far in its epoch</span>, '
        '<span style="color: #D55E00">● validation after each epoch</span>'
    )
