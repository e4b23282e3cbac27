"""Training: the batches, the schedule, early stopping, and that an interruption changes nothing."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fmnist_utils import training
from fmnist_utils.model import build_model
from fmnist_utils.quiet import tf
from fmnist_utils.runs import CHECKPOINT, RunError


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


def network(filters=6):
    """One block with all that has a state: batch norm, dropout. Building and tracing it is most of a test's time."""
    return build_model(filters=(filters,), convs_per_block=(1,), dropout=0.2, dense_units=8)


def trained(images, folder=None, learning_rate=0.01, model=None, **changes):
    settings = {"epochs": 4, "batch_size": 32, "patience": 4, "augment": "flip_shift_erase", "seed": 0, **changes}
    tf.keras.utils.set_random_seed(settings["seed"])
    tf.config.experimental.enable_op_determinism()
    model = model or network()
    rate = training.learning_rate_schedule("one_cycle", learning_rate, settings["epochs"] * 7)
    model.compile(tf.keras.optimizers.Adam(rate), loss="categorical_crossentropy", metrics=["accuracy"])
    return model, training.fit(model, *images, folder=folder, **settings)


def misled(images):
    """Validation labels that are all wrong: the better it learns, the higher the validation loss, from epoch 1 on."""
    return *images[:3], np.roll(images[3], 5, axis=1)


def assert_same(first, second):
    for a, b in zip(first[0].get_weights(), second[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(first[1].drop(columns="seconds"), second[1].drop(columns="seconds"))
    assert first[1].attrs == second[1].attrs


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("augment", ["none", "flip", "flip_shift", "flip_shift_erase"])
def test_a_batch_is_the_same_whenever_it_is_asked_for(images, augment):
    first, second = (training.Batches(*images[:2], 32, augment, seed=3) for _ in range(2))
    first.start_epoch(0), first[2]
    for batches in (first, second):
        batches.start_epoch(5)
    np.testing.assert_array_equal(first[3][0], second[3][0])
    np.testing.assert_array_equal(first[3][1], second[3][1])


def test_an_epoch_shows_every_image_once_with_its_label(images):
    x, y = images[:2]
    batches = training.Batches(x, y, 32, "none", seed=0)
    shown_x, shown_y = (np.concatenate(part) for part in zip(*(batches[i] for i in range(len(batches))), strict=True))
    order = batches.order
    assert sorted(order) == list(range(len(x))) and not np.array_equal(order, np.arange(len(x)))
    np.testing.assert_array_equal(shown_x, x[order])
    np.testing.assert_array_equal(shown_y, y[order])


def test_epochs_and_seeds_differ(images):
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = training.Batches(*images[:2], 32, seed=seed)
        batches.start_epoch(epoch)
        orders.append(tuple(batches.order))
    assert len(set(orders)) == 3


def test_the_given_images_are_never_changed(images):
    x = images[0].copy()
    training.Batches(x, images[1], 32, "flip_shift_erase", seed=0)[0][0][:] = 7
    training.Batches(x, images[1], 32, "none", seed=0)[0][0][:] = 7
    np.testing.assert_array_equal(x, images[0])


def test_flip_mirrors_each_image_in_every_other_epoch(images):
    x, y = images[0][:20], images[1][:20]
    batches = training.Batches(x, y, 20, "flip", seed=0)
    for epoch in (0, 1):
        batches.start_epoch(epoch)
        shown = batches[0][0][np.argsort(batches.order)]
        mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(shown, x, strict=True)])
        as_is = np.array([np.array_equal(a, b) for a, b in zip(shown, x, strict=True)])
        assert (mirrored ^ as_is).all()
        if epoch == 0:
            before = mirrored
    assert (before != mirrored).all() and before.any() and mirrored.any()


def test_shift_moves_by_at_most_its_reach_and_brings_in_zeros():
    x = np.zeros((200, 28, 28, 1), dtype="float32")
    x[:, 13, 13] = 1
    moved = training.augment_batch(x, "flip_shift", np.random.default_rng(0), np.zeros(200, bool))
    places = np.argwhere(moved)[:, 1:3] - 13
    reach = training.SHIFT
    assert len(places) == 200 and np.abs(places).max() == reach
    assert len(np.unique(places, axis=0)) == (2 * reach + 1) ** 2
    bright = training.augment_batch(np.ones_like(x), "flip_shift", np.random.default_rng(0), np.zeros(200, bool))
    assert bright[:, reach:-reach, reach:-reach].min() == 1 and bright.min() == 0


def test_erase_puts_one_grey_rectangle_into_about_half_of_the_images():
    x = np.full((400, 28, 28, 1), -1, dtype="float32")
    mirrored = np.zeros(400, bool)
    erased = training._erase(x, np.random.default_rng(0))
    hit = (erased != -1).any(axis=(1, 2, 3))
    assert 0.4 < hit.mean() < 0.6 and erased.shape == x.shape and erased.dtype == x.dtype
    for image in erased[hit][:20, :, :, 0]:
        rows, columns = np.flatnonzero((image != -1).any(axis=1)), np.flatnonzero((image != -1).any(axis=0))
        inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert len(np.unique(inside)) == 1 and 0 <= inside[0, 0] <= 1
        assert 6 <= inside.shape[0] <= 14 and 6 <= inside.shape[1] <= 14
    kept = training.augment_batch(x, "flip_shift", np.random.default_rng(0), mirrored)
    assert set(np.unique(kept)) <= {-1.0, 0.0}, "flip_shift must not erase"


# ----------------------------------------------------------------------------------------------- schedule


def test_one_cycle_climbs_a_fifth_of_the_way_and_falls_to_zero():
    rate = training.learning_rate_schedule("one_cycle", 0.01, steps=100)
    values = np.array([float(rate(step)) for step in range(101)])
    assert values.argmax() == 20 and values.max() == pytest.approx(0.01) and values[0] == pytest.approx(0.001)
    assert (np.diff(values[:21]) > 0).all() and (np.diff(values[20:]) < 0).all() and values[-1] == pytest.approx(0)


def test_cosine_only_falls_and_constant_stays():
    cosine = training.learning_rate_schedule("cosine", 0.01, 100)
    assert float(cosine(0)) == pytest.approx(0.01) and float(cosine(100)) == pytest.approx(0)
    assert training.learning_rate_schedule("constant", 0.01, 100) == 0.01
    with pytest.raises(ValueError, match="one_cycle, cosine, constant"):
        training.learning_rate_schedule("linear", 0.01, 100)


# ------------------------------------------------------------------------------------------- easy images


def test_the_hardest_images_are_those_of_the_lowest_rank():
    rank = np.array([0.9, 0.2, 0.5, 0.4])
    assert list(training.hardest(rank, 0.5)) == [1, 3]
    assert list(training.hardest(rank, 0.25)) == [1, 2, 3]
    assert list(training.hardest(rank, 0.99)) == [1]


def test_images_are_ranked_within_their_batch_and_a_third_of_the_hard_ones_makes_room():
    rank = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.5, 0.9, 0.9, 0.9, 0.9])
    training.rank_again(rank, np.array([4, 0]), np.array([0.7, 0.8]), 0.0)
    np.testing.assert_allclose(rank[[0, 4]], [0.5, 0])
    np.testing.assert_allclose(rank[[1, 2, 3, 5, 6]], [0.1, 0.2, 0.3, 0.5, 0.9])
    rank = np.arange(1000) / 1000
    shown = training.hardest(rank, 0.6)
    training.rank_again(rank, shown, np.random.default_rng(0).random(400), 0.6)
    stay = np.intersect1d(training.hardest(rank, 0.6), shown)
    assert len(shown) == 400 and 260 <= len(stay) <= 320, "some of those above the limit are still below the easy ones"


def test_the_probabilities_that_rank_the_images_are_those_of_the_step_that_showed_them(images, monkeypatch):
    x, y, *_ = images
    model = build_model(filters=(4,), convs_per_block=(1,), dropout=0, dense_units=0, batch_norm=False)
    model.compile(tf.keras.optimizers.SGD(0.0), loss="categorical_crossentropy")
    expected = (model.predict(x, verbose=0) * y).sum(axis=1)
    seen = np.zeros(len(x))

    def noted(rank, shown, sure, skip_easy):
        seen[shown] = sure

    monkeypatch.setattr(training, "rank_again", noted)
    model.compile(tf.keras.optimizers.SGD(0.0), loss="categorical_crossentropy", metrics=["accuracy"])
    for _ in range(2):  # a second fit of the same model must listen to its own steps
        seen[:] = 0
        training.fit(model, *images, epochs=3, batch_size=32, patience=3, skip_easy=0.5)
        np.testing.assert_allclose(seen, expected, rtol=1e-4)
    assert "compute_loss" not in vars(model), "the model is given back as it came"


def test_the_steps_of_epochs_are_those_that_are_trained(images, monkeypatch):
    taken = []
    monkeypatch.setattr(training._Progress, "on_train_batch_end", lambda self, batch, logs=None: taken.append(batch))
    _, history = trained(images, epochs=5, patience=5, skip_easy=0.6)
    assert training.steps_of_epochs(200, 32, 5, 0.6) == [7, 3, 3, 3, 7] and len(taken) == 23
    assert list(history["images"]) == [200, 80, 80, 80, 200]
    assert training.steps_of_epochs(200, 32, 3) == [7, 7, 7] and training.steps_of_epochs(200, 32, 1, 0.6) == [7]
    assert training.steps_of_epochs(200, 32, 2, 0.6) == [7, 7]
    assert training.steps_of_epochs(200, 32, 24, 0.6) == [7] + [3] * 20 + [7] * 3


def test_the_middle_epochs_show_the_images_that_are_hardest_by_then(images, monkeypatch):
    shown, wanted = {}, {}

    def noted(self, epoch, shown_in=None, start=training.Batches.start_epoch):
        start(self, epoch, shown_in)
        shown[epoch] = sorted(self.order)

    def ranked(rank, *rest, again=training.rank_again):
        again(rank, *rest)
        wanted[len(shown)] = list(np.sort(np.argsort(rank, kind="stable")[:80]))  # by the end of the epoch, the last

    monkeypatch.setattr(training.Batches, "start_epoch", noted)
    monkeypatch.setattr(training, "rank_again", ranked)
    trained(images, epochs=5, patience=5, skip_easy=0.6)
    assert [shown[k] for k in (1, 2, 3)] == [wanted[k] for k in (1, 2, 3)]
    assert shown[1] != shown[2] != shown[3] and len(shown[4]) == 200


# ---------------------------------------------------------------------------------------------------- fit


def test_it_learns(images):
    _, history = trained(images, epochs=12, patience=12, augment="none", learning_rate=0.03)
    assert history["val_accuracy"].max() > 0.9 > history["val_accuracy"].iloc[0]
    assert list(history["epoch"]) == list(range(1, len(history) + 1))


@pytest.mark.parametrize("skip_easy", [0.0, 0.5])
def test_the_weights_of_the_lowest_validation_loss_are_kept(images, skip_easy):
    images = misled(images)
    model, history = trained(images, epochs=8, patience=2, skip_easy=skip_easy)
    best = history.attrs["best_epoch"]
    assert best == history["val_loss"].idxmin() + 1 < len(history) <= best + 2
    loss, _ = model.evaluate(images[2], images[3], batch_size=1000, verbose=0)
    assert loss == pytest.approx(history["val_loss"].min(), rel=1e-4)


def test_without_early_stopping_the_last_weights_stay(images):
    images = misled(images)
    model, history = trained(images, epochs=5, early_stopping=False, patience=1)
    assert len(history) == 5 == history.attrs["best_epoch"]
    loss, _ = model.evaluate(images[2], images[3], batch_size=1000, verbose=0)
    assert loss == pytest.approx(history["val_loss"].iloc[-1], rel=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(images):
    first = trained(images)
    assert_same(first, trained(images))
    other = trained(images, seed=1)
    assert not np.array_equal(first[0].get_weights()[0], other[0].get_weights()[0])


def test_the_summary_describes_the_kept_epoch():
    history = pd.DataFrame({"val_accuracy": [0.8, 0.9, 0.85], "val_loss": [0.5, 0.3, 0.4], "seconds": [2.0, 2.0, 1.0]})
    history["images"] = [100, 100, 40]
    history.attrs |= {"best_epoch": 2, "precision": "float32"}
    model = build_model(filters=(4,), convs_per_block=(1,), dense_units=0)
    assert training.summarize(model, history, seed=7) == {
        "val_accuracy": 0.9,
        "val_loss": 0.3,
        "best_epoch": 2,
        "epochs_run": 3,
        "train_seconds": 5.0,
        "images_per_second": 48.0,
        "model_parameters": model.count_params(),
        "precision": "float32",
        "seed": 7,
    }


# ----------------------------------------------------------------------------------------------- progress


def test_headless_training_prints_one_line_an_epoch(images, capsys):
    trained(images)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == [f"epoch  {k}/4" for k in (1, 2, 3, 4)]
    assert "val_accuracy" in lines[0]


def test_jupyterlab_gets_a_bar_that_moves_with_the_time_left(images, monkeypatch):
    shown = []

    class Handle:
        def update(self, html):
            shown.append(html.data)

    monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    monkeypatch.setattr(training, "display", lambda *_, **__: Handle())
    monkeypatch.setattr(training, "BAR_SECONDS", 0.0)
    trained(images)
    assert len(shown) == 4 * 7 + 1 and "left" in shown[0] and "100 %, done" in shown[-1]
    assert 'value="7"' in shown[6] and 'max="28"' in shown[6]
    points = [len(re.search(r'points="([^"]*)"', html)[1].split()) for html in shown]
    assert points == [*range(1, 29), 28], "the curve grows with each step"
    assert [shown[i].count("<circle") for i in (6, 7, 27, 28)] == [0, 1, 3, 4], "a dot an epoch"


def test_a_long_live_curve_has_a_bounded_number_of_points_over_its_whole_length():
    progress = training._Progress([2000], SimpleNamespace(rows=[]))
    progress.bar = SimpleNamespace(update=lambda html: None)
    progress.on_train_begin()
    for step in range(2000):
        progress.shown = 0.0
        progress.on_train_batch_end(step, {"loss": 2 - step / 1000})
    steps = [step for step, _ in progress.curve]
    assert len(steps) <= training.CURVE_POINTS and steps[0] == 1 and steps[-1] > 1990
    assert set(np.diff(steps)) == {7}


def test_the_live_curve_stands_what_is_not_a_number():
    drawn = training._loss_curve([(1, 2.0), (2, float("nan"))], [(2, 1.0)], 4)
    assert 'points="130.0,10.0"' in drawn and 'cx="250.0" cy="100.0"' in drawn and "nan" not in drawn
    assert "<svg" in training._loss_curve([], [], 4)


# ------------------------------------------------------------------------------------------ interruptions


@pytest.fixture(scope="module")
def undisturbed(images):
    return {skip_easy: trained(images, skip_easy=skip_easy, epochs=5) for skip_easy in (0.0, 0.4)}


@pytest.mark.parametrize(("skip_easy", "stopped_in"), [(0.0, 1), (0.0, 3), (0.4, 1), (0.4, 2), (0.4, 3), (0.4, 4)])
def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
    images, undisturbed, tmp_path, monkeypatch, skip_easy, stopped_in
):
    def interrupt(self, batch, logs=None):
        if len(self.keeper.rows) == stopped_in and batch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._Progress, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(images, tmp_path, skip_easy=skip_easy, epochs=5)
    continued = trained(images, tmp_path, skip_easy=skip_easy, epochs=5)
    assert_same(undisturbed[skip_easy], continued)


def test_a_finished_training_trains_no_further(images, tmp_path):
    first = trained(images, tmp_path, epochs=2)
    assert_same(first, trained(images, tmp_path, epochs=2))


def test_early_stopping_survives_an_interruption(images, tmp_path, monkeypatch):
    images, few = misled(images), {"patience": 2, "epochs": 8}
    undisturbed = trained(images, **few)
    assert len(undisturbed[1]) < 8, "the case must stop early to test anything"

    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._Progress, "on_epoch_end", interrupt)
        for _ in undisturbed[1].index:
            with pytest.raises(KeyboardInterrupt):
                trained(images, tmp_path, **few)
    assert_same(undisturbed, trained(images, tmp_path, **few))


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
        trained(images, tmp_path, epochs=2, model=network(filters=5))
    for damaged in (whole[: len(whole) // 2], b"no archive"):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with refused:
            trained(images, tmp_path, epochs=2)
