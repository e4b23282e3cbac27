"""Training: the schedule, the kept weights, the progress that is shown, and that an interruption changes nothing."""

import json
import re
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from fmnist_utils import _checkpoint, _progress, training
from fmnist_utils._progress import Progress
from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import augmented_batches
from fmnist_utils.model import build_model
from fmnist_utils.runs import CHECKPOINT, RunError

COLUMNS = {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "seconds"}
TWO_EXECUTIONS = {"epochs": 4, "batch_size": 25, "per_execution": 4}  # of 4 steps each in an epoch
callbacks = tf.keras.callbacks


@pytest.fixture(scope="module")
def images():
    """300 small pictures of three kinds that a network can learn: a bright left, middle or right third."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 300)
    x = random.random((300, 28, 28, 1), dtype="float32") * 0.5
    for k in range(3):
        x[y == k, :, 9 * k : 9 * k + 9] += 0.5
    labels = np.eye(10, dtype="float32")[y]
    return x[:200], labels[:200], x[200:], labels[200:]


@pytest.fixture(scope="module")
def misleading(images):
    """Validation labels that are all wrong: the better it learns, the higher the validation loss, from epoch 1 on."""
    return *images[:3], np.roll(images[3], 5, axis=1)


def network(filters=6, dropout=0.2):
    """One block with all that has a state: batch norm, dropout. Building and tracing it is most of a test's time."""
    return build_model(filters=(filters,), convs_per_block=(1,), dropout=dropout, dense_units=8)


class Trained(NamedTuple):
    model: tf.keras.Model
    history: callbacks.History
    stopping: callbacks.EarlyStopping


def train(
    images, folder=None, *, epochs=4, batch_size=32, per_execution=None, patience=4, early_stopping=True, seed=0,
    augment=("flip", "shift", "erase"), learning_rate=0.01, schedule="one_cycle", network=network,
    metrics=("accuracy",), more=(),
):  # fmt: skip
    """Train a small network as notebook 03 does, `more` being callbacks that come first."""
    x_train, y_train, *valid = images
    steps = -(-len(x_train) // batch_size)
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = training.training_copy(network(), "float32")
    rate = training.learning_rate_schedule(schedule, learning_rate, steps * epochs)
    model.compile(
        tf.keras.optimizers.Adam(rate), loss="categorical_crossentropy", metrics=list(metrics),
        steps_per_execution=per_execution or training.steps_per_execution(steps),
    )  # fmt: skip
    stopping = callbacks.EarlyStopping(
        "val_loss", patience=patience if early_stopping else epochs, restore_best_weights=early_stopping
    )
    checkpoint = training.Checkpoint(folder, stopping, seed)
    batches = augmented_batches(
        x_train, y_train, batch_size, epochs=epochs, initial_epoch=checkpoint.initial_epoch, augment=augment, seed=seed
    )
    history = model.fit(
        batches, steps_per_epoch=steps, epochs=epochs, initial_epoch=checkpoint.initial_epoch,
        validation_data=tuple(valid), validation_batch_size=1000, shuffle=False, verbose=0,
        callbacks=[*more, stopping, checkpoint, training.Progress()],
    )  # fmt: skip
    return Trained(model, history, stopping)


@pytest.fixture(scope="module")
def undisturbed(images):
    return train(images, **TWO_EXECUTIONS)


@contextmanager
def interruption(monkeypatch, moment="on_epoch_end", when=lambda progress, epoch: True):
    """Let a training end by Ctrl-C at this moment of the progress, its last callback, where `when` says so."""
    as_written = getattr(Progress, moment)

    def interrupt(self, epoch=None, logs=None):
        if when(self, epoch):
            raise KeyboardInterrupt
        as_written(self, *([] if epoch is None else [epoch]), logs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, moment, interrupt)
        yield


def assert_same_weights(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same(first, second):
    """Weights, history and early stopping are the same to the last bit; only the seconds may differ."""
    assert_same_weights(first.model.get_weights(), second.model.get_weights())
    columns = [{**result.history.history, "seconds": None} for result in (first, second)]
    assert columns[0] == columns[1] and set(columns[0]) == COLUMNS
    assert first.history.epoch == second.history.epoch == list(range(len(columns[0]["loss"])))
    assert len(first.history.history["seconds"]) == len(second.history.history["seconds"])
    for name in _checkpoint.EARLY_STOPPING_STATE:
        assert getattr(first.stopping, name) == getattr(second.stopping, name)


def validation_loss(model, images):
    return model.evaluate(*images[2:], batch_size=1000, verbose=0)[0]


# ----------------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize(("schedule", "peak", "start"), [("one_cycle", 20, 0.001), ("cosine", 0, 0.01)])
def test_schedule_rises_to_its_peak_and_falls_to_0(schedule, peak, start):
    rate = training.learning_rate_schedule(schedule, 0.01, steps=100)
    values = np.array([float(rate(step)) for step in range(101)])
    assert (values[0], values.max(), values[-1]) == pytest.approx((start, 0.01, 0)) and values.argmax() == peak
    assert (np.diff(values[: peak + 1]) > 0).all() and (np.diff(values[peak:]) < 0).all()


def test_schedule_constant():
    assert training.learning_rate_schedule("constant", 0.01, 100) == 0.01


def test_schedule_of_a_single_step():
    assert 0 < float(training.learning_rate_schedule("one_cycle", 0.01, steps=1)(0)) <= 0.01


def test_schedule_unknown():
    with pytest.raises(ValueError, match="schedule = 'linear': allowed are one_cycle, cosine, constant"):
        training.learning_rate_schedule("linear", 0.01, 100)


@pytest.mark.parametrize(("steps", "together"), [(1, 1), (7, 7), (26, 13), (53, 1), (375, 25), (422, 2)])
def test_steps_per_execution_is_the_largest_divisor_up_to_25(steps, together):
    assert training.steps_per_execution(steps) == together


# ---------------------------------------------------------------------------------------------------- fit


def test_training_learns(images):
    _, history, _ = train(
        images, epochs=16, batch_size=20, patience=16, augment=(), learning_rate=0.05,
        network=lambda: network(filters=16, dropout=0),
    )  # fmt: skip
    accuracy = history.history["val_accuracy"]
    assert max(accuracy) > 0.9 > accuracy[0]


def test_training_with_early_stopping_keeps_the_weights_of_the_lowest_validation_loss(misleading):
    model, history, stopping = train(misleading, epochs=8, patience=2)
    losses = history.history["val_loss"]
    assert stopping.best_epoch == np.argmin(losses) < len(losses) - 1 and len(losses) == stopping.best_epoch + 3 < 8
    assert validation_loss(model, misleading) == pytest.approx(min(losses), rel=1e-4)


def test_training_without_early_stopping_keeps_the_last_weights(misleading):
    model, history, _ = train(misleading, epochs=5, early_stopping=False, patience=1)
    losses = history.history["val_loss"]
    assert len(losses) == 5 and min(losses) < losses[-1]
    assert validation_loss(model, misleading) == pytest.approx(losses[-1], rel=1e-4)


def test_training_again_with_the_same_seed_and_with_another(images, undisturbed):
    assert_same(undisturbed, train(images, **TWO_EXECUTIONS))
    other = train(images, seed=1, **TWO_EXECUTIONS)
    assert not np.array_equal(undisturbed.model.get_weights()[0], other.model.get_weights()[0])


def test_dropout_is_seeded_by_seed_and_epoch(images):
    states = []

    class Noting(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            states.append(tuple(self.model.get_layer("block1_dropout").seed_generator.state.numpy()))

    for seed in (0, 1, 0):
        train(images, seed=seed, epochs=2, more=[Noting()])
    assert len(states) == 6 and len(set(states)) == 4 and states[:2] == states[4:]


def test_history_has_the_learning_rate_and_the_seconds_without_validation(images, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(_checkpoint, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Ticking(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.now += 2

        def on_test_begin(self, logs=None):
            clock.now += 100

    _, history, _ = train(images, **{**TWO_EXECUTIONS, "epochs": 3}, more=[Ticking()])
    assert history.history["seconds"] == [4, 4, 4]
    rate = training.learning_rate_schedule("one_cycle", 0.01, 3 * 8)
    assert history.history["learning_rate"] == pytest.approx([float(rate(steps)) for steps in (8, 16, 24)])


@pytest.mark.parametrize("metrics", [[], ["mse"]])
def test_model_without_the_metric_accuracy(images, tmp_path, metrics):
    with pytest.raises(ValueError, match=r"metrics=\['accuracy'\]; it has loss"):
        train(images, tmp_path, metrics=metrics)
    assert not list(tmp_path.iterdir())


def test_training_without_validation():
    """It is refused by name, not by a missing key."""
    checkpoint = training.Checkpoint(None, callbacks.EarlyStopping("val_loss"))
    with pytest.raises(ValueError, match="give fit its validation_data"):
        checkpoint.on_epoch_end(0, {"loss": 1.0, "accuracy": 0.5})


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_training_summary_of_the_kept_epoch(precision):
    columns = {"val_accuracy": [0.8, 0.9, 0.85], "val_loss": [0.5, 0.3, 0.4], "loss": [3, 2, 1]}
    model = training.training_copy(build_model(filters=(4,), convs_per_block=(1,), dense_units=0), precision)
    history = SimpleNamespace(history={**columns, "seconds": [2, 2.004, 1]}, model=model)
    summary = training.training_summary(history, 2, images=100, seed=7)
    assert summary.pop("model_parameters") == model.count_params()
    assert summary == {
        "val_accuracy": 0.9, "val_loss": 0.3, "best_epoch": 2, "epochs_run": 3, "train_seconds": 5.0,
        "images_per_second": 60.0, "precision": precision, "seed": 7,
    }  # fmt: skip


class Poison(callbacks.Callback):
    """Makes a weight not a number in the second epoch; notes the weights that the first one ended with."""

    def __init__(self, moment):
        super().__init__()
        setattr(self, moment, self.poison)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def poison(self, *_, **__):
        if self.epoch == 1:
            self.model.layers[-1].kernel.assign(self.model.layers[-1].kernel * np.nan)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.good = self.model.get_weights()


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("moment", ["on_train_batch_begin", "on_test_begin"])
def test_loss_not_a_number_ends_the_training_with_the_epoch_before(
    images, undisturbed, tmp_path, capsys, early_stopping, moment
):
    """At on_test_begin the weights are lost after the last step: only the validation loss tells it."""
    poison = Poison(moment)
    settings = TWO_EXECUTIONS | {"early_stopping": early_stopping}
    model, history, _ = train(images, tmp_path, **settings, more=[poison])
    assert "not a number in epoch 2: training ends, with the weights of the epoch before" in capsys.readouterr().out
    assert len(history.history["loss"]) == 2 and np.isnan(history.history["val_loss"][1])
    assert np.isfinite(np.concatenate([weight.ravel() for weight in poison.good])).all()
    assert_same_weights(model.get_weights(), poison.good)
    with np.load(tmp_path / CHECKPOINT) as file:
        assert_same_weights([file[f"weight{i}"] for i in range(len(poison.good))], poison.good)
        state = json.loads(str(file["state"]))
    assert state["next_epoch"] == 1 and len(state["history"]["loss"]) == 1
    if early_stopping and moment == "on_test_begin":
        assert_same(undisturbed, train(images, tmp_path, **settings))


# ----------------------------------------------------------------------------------------------- progress


def test_progress_headless_is_one_line_an_epoch(images, capsys):
    _, history, _ = train(images)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == [f"epoch  {k}/4" for k in (1, 2, 3, 4)]
    for epoch, line in enumerate(lines):
        columns = ("loss", "accuracy", "val_loss", "val_accuracy")
        scores = [(name, f"{history.history[name][epoch]:.4f}") for name in columns]
        assert re.findall(r"(\w+) (\d\.\d{4})", line) == scores


@pytest.fixture
def lab(monkeypatch):
    """As in JupyterLab, with a bar that moves at each call; returns what it showed."""
    shown = []
    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    handle = SimpleNamespace(update=lambda html: shown.append(html.data))
    monkeypatch.setattr(_progress, "display", lambda *_, **__: handle)
    monkeypatch.setattr(_progress, "BAR_SECONDS", -1.0)
    return shown


def points_and_dots(shown):
    points = [len(re.search(r'points="([^"]*)"', html)[1].split()) for html in shown]
    return points, [html.count("<circle") for html in shown]


def test_progress_in_jupyterlab_is_a_bar_and_a_curve_that_move(images, lab):
    train(images, per_execution=1)
    assert len(lab) == 4 * 7 + 1 and "left" in lab[0] and "100 %, done" in lab[-1]
    assert 'value="7"' in lab[6] and 'max="28"' in lab[6]
    points, dots = points_and_dots(lab)
    assert points == [*range(1, 29), 28], "the curve grows with each step"
    assert [dots[i] for i in (6, 7, 27, 28)] == [0, 1, 3, 4], "a dot an epoch"


def test_progress_of_a_training_that_goes_on(images, lab, tmp_path, monkeypatch):
    with interruption(monkeypatch, when=lambda progress, epoch: epoch == 1):
        train(images, tmp_path, **TWO_EXECUTIONS)
    lab.clear()
    train(images, tmp_path, **TWO_EXECUTIONS)
    values = [re.search(r'value="(\d+)" max="(\d+)"', html).groups() for html in lab]
    assert values == [(value, "32") for value in ("20", "24", "28", "32", "32")]
    assert points_and_dots(lab) == ([1, 2, 3, 4, 4], [2, 2, 3, 3, 4])
    lab.clear()
    train(images, tmp_path, **TWO_EXECUTIONS)
    assert lab == [], "a training that is finished has no bar to move"


def progress_over(steps, seconds_a_step, monkeypatch, *, epochs=1, done=(), until=None):
    """Show the progress of steps in the epoch after `done` (validation losses); return it and what it showed."""
    shown, clock = [], SimpleNamespace(now=100.0)
    monkeypatch.setattr(_progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    progress = Progress()
    progress.bar = SimpleNamespace(update=lambda html: shown.append(html.data))
    progress.set_params({"steps": steps, "epochs": epochs})
    progress.set_model(SimpleNamespace(history=SimpleNamespace(history={"val_loss": list(done)})))
    progress.on_epoch_begin(len(done))
    for step in range(until or steps):
        clock.now += seconds_a_step
        progress.on_train_batch_end(step, {"loss": 2 - step / 1000})
    return progress, shown


@pytest.mark.parametrize("done", [(), (0.5, 0.4)])
def test_progress_time_left_at_the_pace_of_this_training(monkeypatch, done):
    _, shown = progress_over(100, 1, monkeypatch, epochs=len(done) + 2, done=done, until=10)
    assert len(shown) == 10 and "about 3 min 10 s left" in shown[-1]


def test_progress_bar_rests_half_a_second_between_two_moves(monkeypatch):
    assert len(progress_over(100, 0.125, monkeypatch)[1]) == 20


def test_progress_curve_of_a_long_training_has_a_bounded_number_of_points(monkeypatch):
    steps = [step for step, _ in progress_over(2000, 1, monkeypatch)[0].train_curve]
    assert len(steps) <= _progress.CURVE_POINTS and steps[0] == 1 and steps[-1] > 1990
    assert set(np.diff(steps)) == {7}


def test_progress_curve_leaves_out_what_is_not_a_number():
    drawn = _progress._loss_curve([(1, 2.0), (2, float("nan"))], [(2, 1.0), (3, float("inf"))], 4)
    assert 'points="130.0,10.0"' in drawn and 'cx="250.0" cy="100.0"' in drawn
    assert drawn.count("<circle") == 1 and "nan" not in drawn and "inf" not in drawn
    assert "<svg" in _progress._loss_curve([], [], 4)


# ------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize(
    ("moment", "epoch"),
    [("on_train_batch_end", 0), ("on_train_batch_end", 1), ("on_epoch_begin", 2), ("on_train_batch_end", 3),
     ("on_epoch_end", 3)],
)  # fmt: skip
def test_interrupted_training_ends_as_an_undisturbed_one(
    images, undisturbed, tmp_path, monkeypatch, capsys, moment, epoch
):
    """on_train_batch_end: after half of the epoch's steps; on_epoch_end: right after the checkpoint."""
    steps = 8 * epoch + {"on_epoch_begin": 0, "on_train_batch_end": 4, "on_epoch_end": 8}[moment]
    with interruption(monkeypatch, moment, lambda progress, _: progress.model.optimizer.iterations.numpy() == steps):
        train(images, tmp_path, **TWO_EXECUTIONS)
    capsys.readouterr()
    assert_same(undisturbed, train(images, tmp_path, **TWO_EXECUTIONS))
    printed, done = capsys.readouterr().out.splitlines(), epoch + (moment == "on_epoch_end")
    going_on = f"going on after epoch {done}, which an earlier training had finished"
    assert [line for line in printed if "going on" in line] == [going_on] * (done > 0)
    assert len([line for line in printed if line.startswith("epoch ")]) == 4 - done


def test_interrupted_training_with_early_stopping_again_and_again(misleading, tmp_path, monkeypatch):
    settings = {"patience": 2, "epochs": 8}
    undisturbed = train(misleading, **settings)
    epochs = len(undisturbed.history.epoch)
    assert epochs < 8, "the case must stop early to test anything"
    for _ in range(epochs):  # the last time when it had stopped already
        with interruption(monkeypatch):
            train(misleading, tmp_path, **settings)
    assert_same(undisturbed, train(misleading, tmp_path, **settings))


def test_interrupted_training_without_early_stopping_at_a_constant_rate(misleading, tmp_path, monkeypatch):
    settings = {"early_stopping": False, "patience": 1, "epochs": 3, "schedule": "constant"}
    with interruption(monkeypatch, when=lambda progress, epoch: epoch == 1):
        train(misleading, tmp_path, **settings)
    assert_same(train(misleading, **settings), train(misleading, tmp_path, **settings))


def test_finished_training_trains_no_further(images, tmp_path, capsys):
    first = train(images, tmp_path, epochs=2)
    before = (tmp_path / CHECKPOINT).read_bytes()
    capsys.readouterr()
    again = train(images, tmp_path, epochs=2)
    assert_same(first, again)
    assert first.history.history["seconds"] == again.history.history["seconds"]
    assert (tmp_path / CHECKPOINT).read_bytes() == before and "epoch  " not in capsys.readouterr().out


def test_checkpoint_that_cannot_be_written_leaves_the_one_before(images, tmp_path, monkeypatch):
    train(images, tmp_path, epochs=2, schedule="constant")
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*arguments, **names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        train(images, tmp_path, epochs=3, schedule="constant")
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_checkpoint_that_is_damaged_or_of_another_training(images, tmp_path):
    train(images, tmp_path, epochs=2)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    refused = pytest.raises(RunError, match=r"damaged or belongs to another training.*Delete it to train afresh")
    with refused:
        train(images, tmp_path, epochs=2, network=lambda: network(filters=5))
    with pytest.raises(RunError, match=r"another optimizer or loss.*Delete it to train afresh"):
        train(images, tmp_path, epochs=2, learning_rate=0.02)
    for damaged in (whole[: len(whole) // 2], b"no archive", b""):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with refused:
            train(images, tmp_path, epochs=2)
