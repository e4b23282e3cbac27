"""The progress of a training: in JupyterLab a bar and a loss curve that move, elsewhere one line an epoch."""

import os
import time

import numpy as np
from IPython.display import HTML, display

from fmnist_utils._tensorflow import tf

BAR_SECONDS = 0.5  # at least this long between two moves of the progress bar
CURVE_POINTS = 300  # of the live curve, at most


class Progress(tf.keras.callbacks.Callback):
    """A callback that shows how far `fit` is: a bar, the time left and the loss in JupyterLab, else a line an epoch."""

    def __init__(self):
        super().__init__()
        self.bar = display(HTML(""), display_id=True) if os.environ.get("JPY_SESSION_NAME") else None
        self.last_move, self.start_time = 0.0, None
        self.train_curve, self.valid_curve = [], []  # (steps done, loss)

    def on_epoch_begin(self, epoch, logs=None):
        self.steps = self.params["steps"]  # of an epoch
        self.epoch_start = epoch * self.steps
        if self.start_time is None:
            self.start_time, self.first_step = time.perf_counter(), self.epoch_start
            losses = self.model.history.history.get("val_loss", [])  # of an earlier training
            self.valid_curve = [((k + 1) * self.steps, loss) for k, loss in enumerate(losses)]

    def on_train_batch_end(self, batch, logs=None):
        now, done = time.perf_counter(), self.epoch_start + batch + 1
        if self.bar and now - self.last_move > BAR_SECONDS:
            self.last_move = now
            whole = self._whole()
            if not self.train_curve or done - self.train_curve[-1][0] >= whole / CURVE_POINTS:
                self.train_curve.append((done, float(logs["loss"])))
            left = round((whole - done) * (now - self.start_time) / (done - self.first_step))
            self._draw(done, f"about {left // 60} min {left % 60:02d} s left")

    def on_epoch_end(self, epoch, logs=None):
        self.valid_curve.append(((epoch + 1) * self.steps, logs["val_loss"]))
        # written without seconds: a notebook is stored with these lines
        print(
            f"epoch {epoch + 1:2d}/{self.params['epochs']}   loss {logs['loss']:.4f}   "
            f"accuracy {logs['accuracy']:.4f}   val_loss {logs['val_loss']:.4f}   "
            f"val_accuracy {logs['val_accuracy']:.4f}",
            flush=True,
        )

    def on_train_end(self, logs=None):
        if self.bar and self.start_time is not None:
            self._draw(self._whole(), "done")

    def _whole(self):
        return self.steps * self.params["epochs"]

    def _draw(self, step, text):
        whole = self._whole()
        bar = f'<progress value="{step}" max="{whole}" style="width: 60%"></progress>'
        curves = _loss_curve(self.train_curve, self.valid_curve, whole)
        self.bar.update(HTML(f"{bar} {100 * step / whole:.0f} %, {text}<br>{curves}"))


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
