"""Training: the schedule, the kept weights, the progress that is shown, and that an interruption changes nothing."""

import functools
import json
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from fmnist_utils import training
from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import augmented_batches
from fmnist_utils.model import build_model
from fmnist_utils.runs import RunError

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy")
STEPS = 8  # in an epoch, in two executions of 4
KINDS = np.random.default_rng(0).integers(0, 3, 300)
X = np.random.default_rng(1).random((300, 28, 28, 1), dtype="float32") * 0.5
X += 0.5 * (np.arange(28) // 9 == KINDS[:, None])[:, None, :, None]  # a bright left, middle or right third
Y = np.eye(10, dtype="float32")[KINDS]


@functools.cache
def network(rate=0.01, width=4, kind=tf.keras.optimizers.Adam):
    """Compile a network with all that has a state: batch norm, dropout, an optimizer. Its graph is built once."""
    tf.config.experimental.enable_op_determinism()
    tf.keras.utils.set_random_seed(0)
    model = training.training_copy(build_model((width,), (1,), dropout=0.2, dense_units=8), "float32")
    optimizer = kind(training.learning_rate_schedule("one_cycle", rate, 8 * STEPS))
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], steps_per_execution=4)
    optimizer.build(model.trainable_variables)
    model.start = [variable.numpy() for variable in (*model.weights, *optimizer.variables)]
    return model


def train(folder, *, model=None, epochs=4, early_stopping=True, y_valid=Y[200:], more=(), stopped=("on_epoch_end", -1)):
    """Train as notebook 03 does, from the same start; Ctrl-C comes at the moment `stopped`, after so many steps."""
    model = model or network()
    for variable, value in zip((*model.weights, *model.optimizer.variables), model.start, strict=True):
        variable.assign(value)
    validation, watched = (None, "loss") if y_valid is None else ((X[200:], y_valid), "val_loss")
    patience = 2 if early_stopping else epochs
    stopping = tf.keras.callbacks.EarlyStopping(watched, 0, patience, restore_best_weights=early_stopping)
    checkpoint, last = training.Checkpoint(folder, stopping, 7, seed=3), tf.keras.callbacks.Callback()
    setattr(last, stopped[0], lambda *_, **__: model.optimizer.iterations == stopped[1] and 1 / 0)
    first, fixed = checkpoint.initial_epoch, {"validation_batch_size": 100, "shuffle": False, "verbose": 0}
    batches = augmented_batches(X[:200], Y[:200], 25, epochs=epochs, initial_epoch=first, augment=["flip"], seed=3)
    fixed |= {"steps_per_epoch": STEPS, "callbacks": [*more, stopping, checkpoint, last]}
    history = model.fit(batches, validation_data=validation, epochs=epochs, initial_epoch=first, **fixed)
    state = {name: getattr(stopping, name) for name in training.EARLY_STOPPING_STATE}
    return SimpleNamespace(weights=model.get_weights(), history=history.history, epochs=history.epoch, stopping=state)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed") / "not there yet")


def assert_same(first, second):  # to the last bit, but for the seconds
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.history.keys() <= {*COLUMNS, "learning_rate", "seconds"} and first.stopping == second.stopping
    assert {**first.history, "seconds": 0} == {**second.history, "seconds": 0}
    assert first.epochs == second.epochs == list(range(len(second.history["seconds"])))


@pytest.mark.parametrize(("schedule", "peak", "start"), [("one_cycle", 20, 0.001), ("cosine", 0, 0.01)])
def test_schedule_rises_to_its_peak_and_falls_to_0(schedule, peak, start):
    rate = training.learning_rate_schedule(schedule, 0.01, steps=100)
    values = np.array([float(rate(step)) for step in range(101)])
    assert (values[0], values.max(), values[-1]) == pytest.approx((start, 0.01, 0)) and values.argmax() == peak
    assert (np.diff(values[: peak + 1]) > 0).all() and (np.diff(values[peak:]) < 0).all()


def test_schedule_constant_unknown_or_of_a_single_step():
    assert training.learning_rate_schedule("constant", 0.01, 100) == 0.01
    assert 0 < float(training.learning_rate_schedule("one_cycle", 0.01, steps=1)(0)) <= 0.01
    with pytest.raises(ValueError, match="schedule = 'linear': allowed are one_cycle, cosine, constant"):
        training.learning_rate_schedule("linear", 0.01, 100)


@pytest.mark.parametrize(("steps", "together"), [(1, 1), (7, 7), (26, 13), (53, 1), (375, 25), (422, 2)])
def test_steps_per_execution_is_the_largest_divisor_up_to_25(steps, together):
    assert training.steps_per_execution(steps) == together


def test_muons_steps():
    """A convolution's kernel goes along the momentum's singular directions, all alike; the other variables by Adam."""
    rng, shapes = np.random.default_rng(0), [(3, 3, 2, 4), (4,), (4, 10), (10,)]
    gradients = [[rng.normal(size=shape).astype("float32") for shape in shapes] for _ in range(2)]
    by_muon, by_adam = [[tf.keras.Variable(np.zeros(shape, "float32")) for shape in shapes] for _ in range(2)]
    muon, adam = training.Muon(0.01, beta_2=0.99), tf.keras.optimizers.Adam(0.01, beta_2=0.99)
    momentum, places = np.zeros((18, 4)), [np.zeros((18, 4))]
    for gradient in gradients:
        muon.apply(gradient, by_muon), adam.apply(gradient, by_adam)
        momentum = 0.95 * momentum + (matrix := gradient[0].reshape(18, 4))
        left, _, right = np.linalg.svd(matrix + 0.95 * momentum, full_matrices=False)
        places.append(by_muon[0].numpy().reshape(18, 4))
        lengths = left.T @ (places[-2] - places[-1]) @ right.T / (0.01 * 0.4 * 18**0.5)
        np.testing.assert_allclose(lengths, np.diag(np.diag(lengths)), atol=1e-4)
        assert (np.abs(np.diag(lengths) - 0.95) < 0.3).all()
    for a, b in zip(by_muon[1:], by_adam[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_summary_of_the_kept_epoch():
    columns = {"val_accuracy": [0.8, 0.9, 0.95], "val_loss": [0.5, 0.3, 0.4], "loss": [3, 2, 1]}
    history = SimpleNamespace(history={**columns, "seconds": [2, 2.004, 1]}, model=network())
    assert training.training_summary(history, 2, images=100, seed=7) == {
        "val_accuracy": 0.9, "val_loss": 0.3, "best_epoch": 2, "epochs_run": 3, "train_seconds": 5.0,
        "images_per_second": 60.0, "precision": "float32", "seed": 7, "model_parameters": network().count_params(),
    }  # fmt: skip
    del history.history["val_loss"]
    assert np.isnan(training.training_summary(history, 2, 100, 7)["val_loss"]), "there were no validation images"


def test_dropout_is_seeded_by_seed_and_epoch(tmp_path):
    states = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        checkpoint = training.Checkpoint(tmp_path, None, seed=seed)
        checkpoint.set_model(network())
        checkpoint.on_epoch_begin(epoch)
        states.append(tuple(network().get_layer("block1_dropout").seed_generator.state.numpy()))
    assert len(set(states)) == 3 and states[0] == states[3]


def test_history_and_what_is_printed(tmp_path, monkeypatch, capsys):
    """A line an epoch; the learning rate; seconds without validation: two executions of 5 seconds."""
    clock = iter(range(0, 10**6, 5))
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    history, rate = train(tmp_path, epochs=2).history, training.learning_rate_schedule("one_cycle", 0.01, 8 * STEPS)
    assert history["seconds"] == [10, 10]
    assert history["learning_rate"] == pytest.approx([float(rate(STEPS)), float(rate(2 * STEPS))])
    told = [f"epoch  {k + 1}/2" + "".join(f"   {name} {history[name][k]:.4f}" for name in COLUMNS) for k in (0, 1)]
    assert capsys.readouterr().out.splitlines() == told


@pytest.mark.parametrize(("moment", "early_stopping"), [("on_train_batch_begin", True), ("on_test_begin", False)])
def test_loss_not_a_number_ends_the_training_with_the_epoch_before(moment, early_stopping, tmp_path, capsys):
    """At on_test_begin the weights are lost after the last step: only the validation loss tells it."""
    poison, good = tf.keras.callbacks.Callback(), []
    poison.on_epoch_end = lambda *_: good.append(network().get_weights())
    setattr(poison, moment, lambda *_, **__: good and network().layers[-1].kernel.assign(np.full((8, 10), np.nan)))
    trained = train(tmp_path, early_stopping=early_stopping, more=[poison])
    assert "epoch 2: the loss is not a number. Training ends, with the weights of the epoch" in capsys.readouterr().out
    assert len(trained.epochs) == len(trained.history["val_loss"]) == 1
    with np.load(tmp_path / training.CHECKPOINT) as file:
        assert json.loads(str(file["state"]))["next_epoch"] == 1
        for i, weight in enumerate(good[0]):
            np.testing.assert_array_equal(trained.weights[i], weight)
            np.testing.assert_array_equal(file[f"weight{i}"], weight)


@pytest.mark.parametrize("stopped", [("on_train_batch_end", 4), ("on_train_batch_end", 12), ("on_epoch_end", 24)])
def test_interrupted_training_ends_as_an_undisturbed_one(stopped, undisturbed, tmp_path, capsys):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, stopped=stopped)
    capsys.readouterr()
    assert_same(undisturbed, train(tmp_path))
    printed, done = capsys.readouterr().out, stopped[1] // STEPS  # whole epochs
    assert (f"epochs 1 to {done} were trained earlier" in printed) == (done > 0)
    assert printed.count("epoch  ") == 4 - done


@pytest.mark.parametrize(("muon", "y_valid"), [(True, Y[200:]), (False, None)], ids=["muon", "no validation"])
def test_interrupted_training_of_another_kind_ends_as_an_undisturbed_one(muon, y_valid, tmp_path):
    model = network(kind=training.Muon) if muon else network()
    options = {"model": model, "epochs": 2, "early_stopping": False, "y_valid": y_valid}
    undisturbed = train(tmp_path / "undisturbed", **options)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, stopped=("on_epoch_end", STEPS), **options)
    assert_same(undisturbed, train(tmp_path, **options))
    assert ("val_loss" in undisturbed.history) == muon


@pytest.mark.parametrize("early_stopping", [True, False])
def test_interrupted_training_again_and_again(early_stopping, tmp_path, tmp_path_factory):
    """Validation labels that are all wrong: the better it learns, the higher is that loss, and it stops early."""
    options = {"early_stopping": early_stopping, "y_valid": np.roll(Y[200:], 5, axis=1), "epochs": 5}
    undisturbed = train(tmp_path_factory.mktemp("undisturbed"), **options)
    epochs = len(undisturbed.epochs)
    assert epochs == 3 if early_stopping else 5
    for epoch in range(1, epochs + 1):  # the last time when it had stopped already
        with pytest.raises(ZeroDivisionError):
            train(tmp_path, stopped=("on_epoch_end", epoch * STEPS), **options)
    before = (tmp_path / training.CHECKPOINT).read_bytes()
    assert_same(undisturbed, train(tmp_path, **options))
    assert (tmp_path / training.CHECKPOINT).read_bytes() == before, "it was trained further"


def test_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, stopped=("on_epoch_end", STEPS))
    before = (tmp_path / training.CHECKPOINT).read_bytes()
    monkeypatch.setattr(np, "savez", Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"):
        train(tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_fit_in_another_cell_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "In", ["checkpoint = 1"], raising=False)
    checkpoint = training.Checkpoint(tmp_path, None)
    sys.modules["__main__"].In.append("fit(checkpoint)")
    with pytest.raises(ValueError, match="make the Checkpoint in the cell that calls fit"):
        checkpoint.on_train_begin()


@pytest.mark.parametrize("module", ["training.py", "augmentation.py", "plots.py", ""])
def test_checkpoint_of_other_code_is_dropped(module, edit_package, tmp_path, capsys):
    train(tmp_path, epochs=1)
    data = edit_package(module) or 7 if module else 8
    state, trains = training.Checkpoint(tmp_path, None, data).state, module != "plots.py"
    assert state["next_epoch"] == (0 if trains else 1)
    assert ("are dropped: code, a cell, data or TensorFlow have changed" in capsys.readouterr().out) == trains


def test_checkpoint_that_is_damaged_or_of_another_training(tmp_path):
    train(tmp_path, epochs=2)
    whole = (tmp_path / training.CHECKPOINT).read_bytes()
    for other in ({"width": 5}, {"rate": 0.02}, {"kind": training.Muon}):
        with pytest.raises(RunError, match=r"another network, optimizer or loss.*Delete .* and train it again"):
            train(tmp_path, model=network(**other), epochs=2)
    for damaged in (whole[: len(whole) // 2], b"no archive", b""):
        (tmp_path / training.CHECKPOINT).write_bytes(damaged)
        with pytest.raises(RunError, match=r"damaged or foreign checkpoint\.npz.* and train it again"):
            train(tmp_path, epochs=2)
