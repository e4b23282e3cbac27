"""The batches: each image once an epoch with its label, the same ones whenever asked for, changed only as was asked."""

import numpy as np
import pytest

from fmnist_utils import augmentation
from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import augment_batch, augmented_batches, random_erasing

KEY = tf.constant([7, 1])
NOT_FLIPPED = tf.zeros(200, "bool")


@pytest.fixture(scope="module")
def images():
    """200 images that all differ, also in their mirror image; each label tells its image: its number mod 10."""
    x = np.random.default_rng(0).random((200, 28, 28, 1), dtype="float32")
    return x, np.eye(10, dtype="float32")[np.arange(200) % 10]


def batches(images, batch_size=32, **changes):
    return [(x.numpy(), y.numpy()) for x, y in augmented_batches(*images, batch_size, **changes)]


def joined(batches):
    """Return the images and the labels of batches, one below the other."""
    return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def positions(shown, x):
    """Return which of the images `x` each shown one is; it may be mirrored, but not changed otherwise."""
    places = {image.tobytes(): i for i, image in enumerate(x)}
    return np.array([places.get(image.tobytes(), places.get(image[:, ::-1].tobytes(), -1)) for image in shown])


def assert_same(first, second):
    assert len(first) == len(second)
    for (x, y), (x_again, y_again) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("augment", ["none", "flip", "flip_shift", "flip_shift_erase"])
def test_a_batch_is_the_same_whenever_it_is_asked_for(images, augment):
    pipeline = augmented_batches(*images, 32, epochs=2, augment=augment, seed=3)
    first, second = ([(x.numpy(), y.numpy()) for x, y in pipeline] for _ in range(2))
    assert len(first) == 14
    assert_same(first, second)
    assert_same(first, batches(images, epochs=2, augment=augment, seed=3))


def test_a_pipeline_that_begins_later_gives_exactly_the_later_epochs(images):
    settings = {"epochs": 5, "augment": "flip_shift_erase", "max_shift": 2, "seed": 3}
    assert_same(batches(images, initial_epoch=3, **settings), batches(images, **settings)[3 * 7 :])
    assert batches(images, initial_epoch=5, **settings) == []


def test_an_epoch_shows_every_image_once_with_its_label(images):
    x, y = images
    shown_x, shown_y = joined(batches(images))
    order = positions(shown_x, x)
    assert sorted(order) == list(range(len(x))) and not np.array_equal(order, np.arange(len(x)))
    np.testing.assert_array_equal(shown_x, x[order])
    np.testing.assert_array_equal(shown_y, y[order])


def test_the_last_batch_of_each_epoch_is_the_short_rest(images):
    assert [len(x) for x, _ in batches(images, 60, epochs=2)] == 2 * [60, 60, 60, 20]
    assert [len(x) for x, _ in batches(images, 300)] == [200]


def test_the_shapes_are_those_that_a_network_takes(images):
    x_spec, y_spec = augmented_batches(*images, 32, augment="flip_shift_erase").element_spec
    assert x_spec.is_compatible_with(tf.TensorSpec((None, 28, 28, 1))) and x_spec.shape[1:] == (28, 28, 1)
    assert y_spec.is_compatible_with(tf.TensorSpec((None, 10))) and y_spec.shape[1:] == (10,)


def test_order_and_augmentation_differ_between_epochs_and_seeds(images):
    shown = [joined(batches(images, epochs=1, seed=seed))[0] for seed in (0, 1)]
    shown.append(joined(batches(images, epochs=2, initial_epoch=1, seed=0))[0])
    assert len({tuple(positions(x, images[0])) for x in shown}) == 3
    point = np.zeros((200, 28, 28, 1), "float32")
    point[:, 13:15, 13:15] = 1  # looks the same in the mirror
    few = {"augment": "flip_shift", "max_shift": 3}
    moved = [joined(batches((point, images[1]), **few, seed=seed))[0] for seed in (0, 1)]
    moved.append(joined(batches((point, images[1]), **few, epochs=2, initial_epoch=1))[0])
    parts = joined(batches((point, images[1]), 100, **few))[0].reshape(2, -1)
    assert len({x.tobytes() for x in moved}) == 3 and len({x.tobytes() for x in parts}) == 2, "batches differ too"


def test_the_given_images_are_never_changed(images):
    x, y = (array.copy() for array in images)
    batches((x, y), augment="flip_shift_erase", epochs=2)
    np.testing.assert_array_equal(x, images[0])
    np.testing.assert_array_equal(y, images[1])


# ------------------------------------------------------------------------------------------- augmentation


def test_flip_mirrors_each_image_left_to_right_in_every_other_epoch(images):
    x = images[0]
    mirrored = []
    for epoch in range(3):
        shown, labels = joined(batches(images, augment="flip", epochs=epoch + 1, initial_epoch=epoch))
        order = positions(shown, x)
        np.testing.assert_array_equal(labels, images[1][order])
        shown = shown[np.argsort(order)]
        mirrored.append((shown == x[:, :, ::-1]).all(axis=(1, 2, 3)))
        np.testing.assert_array_equal(mirrored[-1], ~(shown == x).all(axis=(1, 2, 3)))
    assert (mirrored[0] != mirrored[1]).all() and (mirrored[0] == mirrored[2]).all()
    assert 0.3 < mirrored[0].mean() < 0.7
    other = joined(batches(images, augment="flip", seed=1))[0]
    other = other[np.argsort(positions(other, x))]
    assert ((other == x[:, :, ::-1]).all(axis=(1, 2, 3)) != mirrored[0]).any(), "another seed mirrors others first"


@pytest.mark.parametrize(
    ("augment", "changed"), [("none", False), ("flip", True), ("flip_shift", True), ("flip_shift_erase", True)]
)
def test_only_the_images_of_the_mask_are_mirrored(images, augment, changed):
    mask = np.arange(200) % 3 == 0
    shown = np.asarray(augment_batch(images[0], augment, mask, KEY, max_shift=0))
    mirrored = (shown == images[0][:, :, ::-1]).mean(axis=(1, 2, 3)) > 0.5  # the rest may be erased
    np.testing.assert_array_equal(mirrored, mask & changed)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_shift_moves_by_at_most_its_reach_and_brings_in_zeros(reach):
    x = np.zeros((400, 28, 28, 1), "float32")
    x[:, 13, 13] = 1
    moved = augment_batch(x, "flip_shift", tf.zeros(400, "bool"), KEY, max_shift=reach).numpy()
    places = np.argwhere(moved)[:, 1:3] - 13
    assert moved.shape == x.shape and len(places) == 400 and np.abs(places).max() == reach
    assert len(np.unique(places, axis=0)) == (2 * reach + 1) ** 2, "each way, both ways independently"
    bright = augment_batch(np.ones_like(x), "flip_shift", tf.zeros(400, "bool"), KEY, max_shift=reach).numpy()
    assert bright[:, reach : 28 - reach, reach : 28 - reach].min() == 1 and bright.min() == (reach == 0)
    expected = [(28 - abs(down)) * (28 - abs(right)) for down, right in places]
    np.testing.assert_array_equal(bright.sum(axis=(1, 2, 3)), expected)


def test_the_pipeline_shifts_by_one_pixel_unless_told_otherwise(images):
    point = np.zeros((200, 28, 28, 1), "float32")
    point[:, 13:15, 13:15] = 1  # looks the same in the mirror
    for given, reach in (({}, 1), ({"max_shift": 3}, 3)):
        shown = joined(batches((point, images[1]), augment="flip_shift", **given))[0]
        rows, columns = (np.argwhere(shown)[:, axis] for axis in (1, 2))
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (13 - reach, 14 + reach) * 2


@pytest.fixture(scope="module")
def erased():
    """1,000 images of -1 after erasing, and of each erased one its rectangle's content."""
    shown = random_erasing(np.full((1000, 28, 28, 1), -1, "float32"), KEY).numpy()
    assert shown.shape == (1000, 28, 28, 1) and shown.dtype == np.float32
    rectangles, corners = [], []
    for image in shown[(shown != -1).any(axis=(1, 2, 3)), :, :, 0]:
        rows, columns = (np.flatnonzero((image != -1).any(axis=axis)) for axis in (1, 0))
        rectangles.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        corners.append((rows[0], columns[0], rows[-1], columns[-1]))
    return rectangles, np.array(corners)


def test_erasing_puts_a_rectangle_of_random_pixels_into_about_half_of_the_images(erased):
    rectangles, _ = erased
    assert 450 < len(rectangles) < 550
    pixels = np.concatenate([rectangle.ravel() for rectangle in rectangles])
    assert -1 not in pixels, "what was erased is a whole rectangle"
    assert pixels.min() >= 0 and pixels.max() < 1 and 0.48 < pixels.mean() < 0.52 and 0.27 < pixels.std() < 0.31
    assert all(rectangle.std() > 0.1 for rectangle in rectangles), "each pixel is drawn on its own"
    assert len({rectangle.tobytes() for rectangle in rectangles}) == len(rectangles)


def test_an_erased_rectangle_has_the_area_and_the_aspect_of_its_ranges(erased):
    rectangles, corners = erased
    area = np.array([rectangle.size for rectangle in rectangles]) / 28**2
    assert 0.01 < area.min() < 0.04 and 0.36 < area.max() < 0.43, "2 to 40 %, but for the rounding to pixels"
    assert 0.18 < area.mean() < 0.23
    height, width = np.array([rectangle.shape for rectangle in rectangles]).T
    aspect = np.log(height / width)[(height < 28) & (width < 28) & (area > 0.1)]
    low, high = (np.log(ratio) for ratio in augmentation.ERASE_ASPECT)
    rounding = 0.12
    assert low - rounding < aspect.min() < 0.7 * low and 0.7 * high < aspect.max() < high + rounding
    assert abs(aspect.mean()) < 0.15, "as often wide as tall"
    assert corners.min(axis=0)[:2].tolist() == [0, 0] and corners.max(axis=0)[2:].tolist() == [27, 27], "to each edge"


def test_shift_alone_does_not_erase_and_erase_also_shifts():
    x = np.full((200, 28, 28, 1), -1, "float32")
    assert set(np.unique(augment_batch(x, "flip_shift", NOT_FLIPPED, KEY))) == {-1.0, 0.0}
    erased = augment_batch(x, "flip_shift_erase", NOT_FLIPPED, KEY).numpy()
    assert (erased == 0).any() and ((erased > 0) & (erased < 1)).any() and (erased == -1).any()
