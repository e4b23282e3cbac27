"""Training: the schedule, early stopping, the progress shown, and that an interruption changes nothing."""

import json
import re
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from fmnist_utils import _progress, training
from fmnist_utils._progress import Progress
from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import augmented_batches
from fmnist_utils.model import build_model
from fmnist_utils.runs import CHECKPOINT, RunError

COLUMNS = {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "seconds"}
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


def network(filters=6, dropout=0.2):
    """One block with all that has a state: batch norm, dropout. Building and tracing it is most of a test's time."""
    return build_model(filters=(filters,), convs_per_block=(1,), dropout=dropout, dense_units=8)


class Trained(NamedTuple):
    model: tf.keras.Model
    history: callbacks.History
    stopping: callbacks.EarlyStopping


def trained(
    images, folder=None, *, epochs=4, batch_size=32, per_execution=None, patience=4, early_stopping=True, seed=0,
    augment="flip_shift_erase", learning_rate=0.01, schedule="one_cycle", network=network,
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
        callbacks=[*more, stopping, checkpoint, training.Progress(), callbacks.TerminateOnNaN()],
    )  # fmt: skip
    return Trained(model, history, stopping)


TWO_GOES = {"epochs": 4, "batch_size": 25, "per_execution": 4}  # 8 steps an epoch


@pytest.fixture(scope="module")
def undisturbed(images):
    return trained(images, **TWO_GOES)


def misled(images):
    """Validation labels that are all wrong: the better it learns, the higher the validation loss, from epoch 1 on."""
    return *images[:3], np.roll(images[3], 5, axis=1)


def assert_same_weights(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same(first, second):
    assert_same_weights(first.model.get_weights(), second.model.get_weights())
    columns = [{**result.history.history, "seconds": None} for result in (first, second)]
    assert columns[0] == columns[1] and set(columns[0]) == COLUMNS
    assert first.history.epoch == second.history.epoch == list(range(len(columns[0]["loss"])))
    assert len(first.history.history["seconds"]) == len(second.history.history["seconds"])
    assert first.stopping.best_epoch == second.stopping.best_epoch


def validation_loss(model, images):
    return model.evaluate(*images[2:], batch_size=1000, verbose=0)[0]


# ----------------------------------------------------------------------------------------------- schedule


def test_one_cycle_climbs_a_fifth_of_the_way_and_falls_to_zero():
    rate = training.learning_rate_schedule("one_cycle", 0.01, steps=100)
    values = np.array([float(rate(step)) for step in range(101)])
    assert values.argmax() == 20 and values.max() == pytest.approx(0.01) and values[0] == pytest.approx(0.001)
    assert (np.diff(values[:21]) > 0).all() and (np.diff(values[20:]) < 0).all() and values[-1] == pytest.approx(0)


def test_one_cycle_serves_even_a_single_step():
    rate = training.learning_rate_schedule("one_cycle", 0.01, steps=1)
    assert 0 < float(rate(0)) <= 0.01


def test_cosine_only_falls_and_constant_stays():
    cosine = training.learning_rate_schedule("cosine", 0.01, 100)
    values = np.array([float(cosine(step)) for step in range(101)])
    assert values[0] == pytest.approx(0.01) and values[-1] == pytest.approx(0) and (np.diff(values) < 0).all()
    assert training.learning_rate_schedule("constant", 0.01, 100) == 0.01
    with pytest.raises(ValueError, match="one_cycle, cosine, constant"):
        training.learning_rate_schedule("linear", 0.01, 100)


@pytest.mark.parametrize(
    ("steps", "run"), [(1, 1), (7, 7), (25, 25), (26, 13), (50, 25), (52, 13), (53, 1), (375, 25), (422, 2), (469, 7)]
)
def test_an_epoch_is_run_in_goes_of_equal_length_the_longest_up_to_25_steps(steps, run):
    assert training.steps_per_execution(steps) == run
    assert type(run) is int and steps % run == 0


# ---------------------------------------------------------------------------------------------------- fit


def test_it_learns(images):
    _, history, _ = trained(
        images, epochs=16, batch_size=20, patience=16, augment="none", learning_rate=0.05,
        network=lambda: network(filters=16, dropout=0),
    )  # fmt: skip
    accuracy = history.history["val_accuracy"]
    assert max(accuracy) > 0.9 > accuracy[0]
    assert history.epoch == list(range(len(accuracy))) and set(history.history) == COLUMNS


def test_the_weights_of_the_lowest_validation_loss_are_kept(images):
    images = misled(images)
    model, history, stopping = trained(images, epochs=8, patience=2)
    losses = history.history["val_loss"]
    assert stopping.best_epoch == np.argmin(losses) < len(losses) - 1 and len(losses) == stopping.best_epoch + 3 < 8
    assert validation_loss(model, images) == pytest.approx(min(losses), rel=1e-4)


def test_without_early_stopping_the_last_weights_stay(images):
    images = misled(images)
    model, history, _ = trained(images, epochs=5, early_stopping=False, patience=1)
    losses = history.history["val_loss"]
    assert len(losses) == 5 and min(losses) < losses[-1]
    assert validation_loss(model, images) == pytest.approx(losses[-1], rel=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(images, undisturbed):
    assert_same(undisturbed, trained(images, **TWO_GOES))
    other = trained(images, seed=1, **TWO_GOES)
    assert not np.array_equal(undisturbed.model.get_weights()[0], other.model.get_weights()[0])


def test_the_seed_of_dropout_comes_from_the_seed_and_the_epoch(images):
    states = {}

    class Noting(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            state = self.model.get_layer("block1_dropout").seed_generator.state.numpy()
            states.setdefault(len(states), tuple(state))

    for seed in (0, 1, 0):
        trained(images, seed=seed, epochs=2, more=[Noting()])
    drawn = list(states.values())
    assert len(drawn) == 6 and len(set(drawn)) == 4 and drawn[:2] == drawn[4:]


def test_the_history_has_the_learning_rate_and_the_seconds_without_validation(images, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Ticking(callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.now += 2

        def on_test_begin(self, logs=None):
            clock.now += 100

    _, history, _ = trained(images, **{**TWO_GOES, "epochs": 3}, more=[Ticking()])
    assert history.history["seconds"] == [4, 4, 4]
    rate = training.learning_rate_schedule("one_cycle", 0.01, 3 * 8)
    assert history.history["learning_rate"] == pytest.approx([float(rate(steps)) for steps in (8, 16, 24)])


@pytest.mark.parametrize("metrics", [[], ["mse"]])
def test_a_model_without_accuracy_is_refused_before_an_epoch_is_done(images, tmp_path, capsys, metrics):
    with pytest.raises(ValueError, match=r"metrics=\['accuracy'\]; it has loss"):
        trained(images, tmp_path, metrics=metrics)
    assert not list(tmp_path.iterdir()) and "epoch" not in capsys.readouterr().out


def test_the_summary_describes_the_kept_epoch():
    columns = {
        "val_accuracy": [0.8, 0.9, 0.85],
        "val_loss": [0.5, 0.3, 0.4],
        "loss": [3, 2, 1],
        "seconds": [2, 2.004, 1],
    }
    model = build_model(filters=(4,), convs_per_block=(1,), dense_units=0)
    for precision in ("float32", "mixed_bfloat16"):
        history = SimpleNamespace(history=columns, model=training.training_copy(model, precision))
        assert training.training_summary(history, 2, images=100, seed=7) == {
            "val_accuracy": 0.9,
            "val_loss": 0.3,
            "best_epoch": 2,
            "epochs_run": 3,
            "train_seconds": 5.0,
            "images_per_second": 60.0,
            "model_parameters": model.count_params(),
            "precision": precision,
            "seed": 7,
        }


# ----------------------------------------------------------------------------------------- not a number


class Poison(callbacks.Callback):
    """Makes a weight not a number in the second epoch; notes the weights that the first one ended with."""

    def __init__(self, moment):
        super().__init__()
        setattr(self, moment, self.poison)

    def poison(self, *_, **__):
        if self.epoch == 1:
            self.model.layers[-1].kernel.assign(self.model.layers[-1].kernel * np.nan)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.good = self.model.get_weights()


class Epoch(callbacks.Callback):
    def __init__(self, poison):
        super().__init__()
        self.poison = poison

    def on_epoch_begin(self, epoch, logs=None):
        self.poison.epoch = epoch


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("moment", ["on_train_batch_begin", "on_test_begin"])
def test_a_loss_that_is_no_number_ends_the_training_with_the_epoch_before(
    images, undisturbed, tmp_path, capsys, early_stopping, moment
):
    """At on_test_begin the weights are lost after the last step: only the validation loss tells it."""
    poison = Poison(moment)
    few = TWO_GOES | {"early_stopping": early_stopping}
    model, history, _ = trained(images, tmp_path, **few, more=[Epoch(poison), poison])
    assert "not a number in epoch 2: training ends, with the weights of the epoch before" in capsys.readouterr().out
    assert len(history.history["loss"]) == 2 and np.isnan(history.history["val_loss"][1])
    assert np.isfinite(np.concatenate([weight.ravel() for weight in poison.good])).all()
    assert_same_weights(model.get_weights(), poison.good)
    with np.load(tmp_path / CHECKPOINT) as file:
        assert_same_weights([file[f"weight{i}"] for i in range(len(poison.good))], poison.good)
        state = json.loads(str(file["state"]))
    assert state["next_epoch"] == 1 and len(state["history"]["loss"]) == 1
    if early_stopping and moment == "on_test_begin":
        assert_same(undisturbed, trained(images, tmp_path, **few))


# ----------------------------------------------------------------------------------------------- progress


def test_headless_training_prints_one_line_an_epoch(images, capsys):
    _, history, _ = trained(images)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == [f"epoch  {k}/4" for k in (1, 2, 3, 4)]
    for line, *scores in zip(
        lines, *(history.history[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")), strict=True
    ):
        told = re.findall(r"(\w+) (\d\.\d{4})", line)
        assert told == [
            (name, f"{score:.4f}")
            for name, score in zip(("loss", "accuracy", "val_loss", "val_accuracy"), scores, strict=True)
        ]


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


def test_jupyterlab_gets_a_bar_that_moves_with_the_time_left(images, lab):
    trained(images, per_execution=1)
    assert len(lab) == 4 * 7 + 1 and "left" in lab[0] and "100 %, done" in lab[-1]
    assert 'value="7"' in lab[6] and 'max="28"' in lab[6]
    points, dots = points_and_dots(lab)
    assert points == [*range(1, 29), 28], "the curve grows with each step"
    assert [dots[i] for i in (6, 7, 27, 28)] == [0, 1, 3, 4], "a dot an epoch"


def test_the_bar_of_a_training_that_goes_on_begins_where_the_earlier_one_ended(images, lab, tmp_path, monkeypatch):
    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(images, tmp_path, **TWO_GOES)
    lab.clear()
    trained(images, tmp_path, **TWO_GOES)
    values = [re.search(r'value="(\d+)" max="(\d+)"', html).groups() for html in lab]
    assert values == [(value, "32") for value in ("20", "24", "28", "32", "32")]
    assert points_and_dots(lab) == ([1, 2, 3, 4, 4], [2, 2, 3, 3, 4])
    lab.clear()
    trained(images, tmp_path, **TWO_GOES)
    assert lab == [], "a training that is finished has no bar to move"


def counting(steps, epochs, monkeypatch, done=()):
    """Return a Progress with a bar, its clock, and what it shows; `done`: validation losses of epochs before."""
    shown, clock = [], SimpleNamespace(now=100.0)
    monkeypatch.setattr(_progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    progress = Progress()
    progress.bar = SimpleNamespace(update=lambda html: shown.append(html.data))
    progress.set_params({"steps": steps, "epochs": epochs})
    progress.set_model(SimpleNamespace(history=SimpleNamespace(history={"val_loss": list(done)})))
    return progress, clock, shown


@pytest.mark.parametrize("done", [(), (0.5, 0.4)])
def test_the_time_left_is_that_of_the_steps_left_at_the_pace_of_this_training(monkeypatch, done):
    progress, clock, shown = counting(100, len(done) + 2, monkeypatch, done)
    progress.on_epoch_begin(len(done))
    for step in range(10):
        clock.now += 1
        progress.on_train_batch_end(step, {"loss": 1.0})
    assert len(shown) == 10 and "about 3 min 10 s left" in shown[-1]


def test_the_bar_rests_at_least_half_a_second_between_two_moves(monkeypatch):
    progress, clock, shown = counting(100, 1, monkeypatch)
    progress.on_epoch_begin(0)
    for step in range(100):
        clock.now += 0.125
        progress.on_train_batch_end(step, {"loss": 1.0})
    assert len(shown) == 20


def test_a_long_live_curve_has_a_bounded_number_of_points_over_its_whole_length(monkeypatch):
    progress, clock, _ = counting(2000, 1, monkeypatch)
    progress.on_epoch_begin(0)
    for step in range(2000):
        clock.now += 1
        progress.on_train_batch_end(step, {"loss": 2 - step / 1000})
    steps = [step for step, _ in progress.train_curve]
    assert len(steps) <= _progress.CURVE_POINTS and steps[0] == 1 and steps[-1] > 1990
    assert set(np.diff(steps)) == {7}


def test_the_live_curve_stands_what_is_not_a_number():
    drawn = _progress._loss_curve([(1, 2.0), (2, float("nan"))], [(2, 1.0), (3, float("inf"))], 4)
    assert 'points="130.0,10.0"' in drawn and 'cx="250.0" cy="100.0"' in drawn
    assert drawn.count("<circle") == 1 and "nan" not in drawn and "inf" not in drawn
    assert "<svg" in _progress._loss_curve([], [], 4)


# ------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize(
    ("moment", "epoch"),
    [("on_train_batch_end", 0), ("on_train_batch_end", 1), ("on_epoch_begin", 2), ("on_test_begin", 1),
     ("on_train_batch_end", 3), ("on_epoch_end", 3)],
)  # fmt: skip
def test_an_interrupted_training_ends_as_an_undisturbed_one(
    images, undisturbed, tmp_path, monkeypatch, capsys, moment, epoch
):
    """on_train_batch_end: after the first half of the epoch's steps; on_epoch_end: just after the checkpoint."""

    steps = 8 * epoch + {"on_epoch_begin": 0, "on_train_batch_end": 4}.get(moment, 8)

    as_written = getattr(Progress, moment)

    def interrupt(self, *arguments, **names):
        if self.model.optimizer.iterations.numpy() == steps:
            raise KeyboardInterrupt
        as_written(self, *arguments, **names)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(images, tmp_path, **TWO_GOES)
    capsys.readouterr()
    assert_same(undisturbed, trained(images, tmp_path, **TWO_GOES))
    told, done = capsys.readouterr().out.splitlines(), epoch + (moment == "on_epoch_end")
    going_on = f"going on after epoch {done}, which an earlier training had finished"
    assert [line for line in told if "going on" in line] == [going_on] * (done > 0)
    assert len([line for line in told if line.startswith("epoch ")]) == 4 - done


def test_a_training_may_be_interrupted_again_and_again(images, undisturbed, tmp_path, monkeypatch):
    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_epoch_end", interrupt)
        for _ in range(4):
            with pytest.raises(KeyboardInterrupt):
                trained(images, tmp_path, **TWO_GOES)
    assert_same(undisturbed, trained(images, tmp_path, **TWO_GOES))


def test_a_finished_training_trains_no_further(images, tmp_path, capsys):
    first = trained(images, tmp_path, epochs=2)
    before = (tmp_path / CHECKPOINT).read_bytes()
    capsys.readouterr()
    again = trained(images, tmp_path, epochs=2)
    assert_same(first, again)
    assert first.history.history["seconds"] == again.history.history["seconds"]
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert "epoch  " not in capsys.readouterr().out


def test_early_stopping_survives_an_interruption(images, tmp_path, monkeypatch):
    images, few = misled(images), {"patience": 2, "epochs": 8}
    undisturbed = trained(images, **few)
    run = len(undisturbed.history.epoch)
    assert run < 8, "the case must stop early to test anything"

    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_epoch_end", interrupt)
        for _ in range(run):  # the last time when it had stopped already
            with pytest.raises(KeyboardInterrupt):
                trained(images, tmp_path, **few)
    continued = trained(images, tmp_path, **few)
    assert_same(undisturbed, continued)
    for name in training.EARLY_STOPPING_STATE:
        assert getattr(continued.stopping, name) == getattr(undisturbed.stopping, name)


def test_without_early_stopping_and_at_a_constant_rate_it_goes_on_to_the_last_weights(images, tmp_path, monkeypatch):
    images, few = misled(images), {"early_stopping": False, "patience": 1, "epochs": 3, "schedule": "constant"}

    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(images, tmp_path, **few)
    assert_same(trained(images, **few), trained(images, tmp_path, **few))


def test_a_failed_checkpoint_leaves_the_one_before(images, tmp_path, monkeypatch):
    trained(images, tmp_path, epochs=2)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*arguments, **names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        trained(images, tmp_path, epochs=3)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_that_is_damaged_or_of_another_network_is_named(images, tmp_path):
    trained(images, tmp_path, epochs=1)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    refused = pytest.raises(RunError, match=r"damaged or belongs to another network.*Delete it to train afresh")
    with refused:
        trained(images, tmp_path, epochs=2, network=lambda: network(filters=5))
    for damaged in (whole[: len(whole) // 2], b"no archive", b""):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with refused:
            trained(images, tmp_path, epochs=2)
