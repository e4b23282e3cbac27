"""augmented_batches shows each image once an epoch with its label, reproducibly, and changes it as asked, no more."""

import numpy as np
import pytest

from fmnist_utils import augmentation
from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import AUGMENTATIONS, augment_batch, augmented_batches, random_erasing
from fmnist_utils.parameters import AUGMENTATIONS as NAMES

KEY = tf.constant([7, 1])
ALL = ["flip", "shift", "erase"]


@pytest.fixture(scope="module")
def images():
    """200 images that all differ, also in their mirror image; each label tells its image: its number mod 10."""
    x = np.random.default_rng(0).random((200, 28, 28, 1), dtype="float32")
    return x, np.eye(10, dtype="float32")[np.arange(200) % 10]


@pytest.fixture(scope="module")
def points(images):
    """200 images of one square in the middle, which looks the same in the mirror: only a shift changes them."""
    x = np.zeros((200, 28, 28, 1), "float32")
    x[:, 13:15, 13:15] = 1
    return x, images[1]


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
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_names_are_those_that_parameters_allow():
    assert set(AUGMENTATIONS) == set(NAMES)


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("augment", [[], ["flip"], ALL])
def test_batches_asked_for_again(images, augment):
    pipeline = augmented_batches(*images, 32, epochs=2, augment=augment, seed=3)
    first, second = ([(x.numpy(), y.numpy()) for x, y in pipeline] for _ in range(2))
    assert len(first) == 14
    assert_same(first, second)
    assert_same(first, batches(images, epochs=2, augment=augment, seed=3))


def test_batches_from_a_later_epoch_on(images):
    settings = {"epochs": 5, "augment": ALL, "max_shift": 2, "seed": 3}
    assert_same(batches(images, initial_epoch=3, **settings), batches(images, **settings)[3 * 7 :])
    assert batches(images, initial_epoch=5, **settings) == []


def test_epoch_shows_every_image_once_with_its_label(images):
    x, y = images
    shown_x, shown_y = joined(batches(images))
    order = positions(shown_x, x)
    assert sorted(order) == list(range(len(x))) and not np.array_equal(order, np.arange(len(x)))
    np.testing.assert_array_equal(shown_x, x[order])
    np.testing.assert_array_equal(shown_y, y[order])


def test_last_batch_of_an_epoch_is_the_short_rest(images):
    assert [len(x) for x, _ in batches(images, 60, epochs=2)] == 2 * [60, 60, 60, 20]
    assert [len(x) for x, _ in batches(images, 300)] == [200]


def test_shapes_are_those_that_a_network_takes(images):
    x_spec, y_spec = augmented_batches(*images, 32, augment=ALL).element_spec
    assert (x_spec.shape.as_list(), y_spec.shape.as_list()) == ([None, 28, 28, 1], [None, 10])


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 2, "initial_epoch": 1}], ids=["seed", "epoch"])
def test_order_and_shift_differ_between_seeds_and_epochs(images, points, change):
    orders = [positions(joined(batches(images, **options))[0], images[0]) for options in ({}, change)]
    assert not np.array_equal(*orders)
    shifts = [joined(batches(points, augment=["shift"], max_shift=3, **options))[0] for options in ({}, change)]
    assert not np.array_equal(*shifts)


def test_shift_differs_between_batches(points):
    first, second = joined(batches(points, 100, augment=["shift"], max_shift=3))[0].reshape(2, -1)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("augment", ["flip", ["mirror"], ["flip", "none"]])
def test_unknown_augmentation(images, augment):
    with pytest.raises(ValueError, match=r"allowed is a list of some of .*flip.*\[\] for none"):
        augmented_batches(*images, 32, augment=augment)


# ------------------------------------------------------------------------------------------- augmentations


def mirrored_images(images, **options):
    """Return which images an epoch shows mirrored, in the order of the images."""
    shown, labels = joined(batches(images, augment=["flip"], **options))
    order = positions(shown, images[0])
    np.testing.assert_array_equal(labels, images[1][order])
    return (shown[np.argsort(order)] == images[0][:, :, ::-1]).all(axis=(1, 2, 3))


def test_flip_alternates_from_epoch_to_epoch(images):
    first, second, third = (mirrored_images(images, epochs=k + 1, initial_epoch=k) for k in range(3))
    assert (first != second).all() and (first == third).all() and 0.3 < first.mean() < 0.7
    assert (mirrored_images(images, seed=1) != first).any()


@pytest.mark.parametrize("augment", [[], ["flip"], ["shift"], ALL])
def test_flip_mirrors_the_images_of_its_mask_only(images, augment):
    mask = np.arange(200) % 3 == 0
    shown = np.asarray(augment_batch(images[0], augment, mask, KEY, max_shift=0))
    mirrored = (shown == images[0][:, :, ::-1]).mean(axis=(1, 2, 3)) > 0.5  # the rest may be erased
    np.testing.assert_array_equal(mirrored, mask & ("flip" in augment))


@pytest.mark.parametrize("max_shift", [0, 1, 3])
def test_shift_reaches_each_place_and_brings_in_zeros(max_shift):
    x, mask = np.zeros((400, 28, 28, 1), "float32"), tf.zeros(400, "bool")
    x[:, 13, 13] = 1
    moved = augment_batch(x, ["shift"], mask, KEY, max_shift).numpy()
    places = np.argwhere(moved)[:, 1:3] - 13
    assert moved.shape == x.shape and len(places) == 400 and np.abs(places).max() == max_shift
    assert len(np.unique(places, axis=0)) == (2 * max_shift + 1) ** 2, "down and right are drawn independently"
    bright = augment_batch(np.ones_like(x), ["shift"], mask, KEY, max_shift).numpy()
    expected = [(28 - abs(down)) * (28 - abs(right)) for down, right in places]
    np.testing.assert_array_equal(bright.sum(axis=(1, 2, 3)), expected)


@pytest.mark.parametrize(("options", "reach"), [({}, 1), ({"max_shift": 3}, 3)])
def test_shift_of_batches_by_max_shift(points, options, reach):
    rows, columns = np.argwhere(joined(batches(points, augment=["shift"], **options))[0])[:, 1:3].T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (13 - reach, 14 + reach) * 2


@pytest.fixture(scope="module")
def erased():
    """1,000 images of -1 after erasing: of each erased one its rectangle's content, and its corners."""
    shown = random_erasing(np.full((1000, 28, 28, 1), -1, "float32"), KEY).numpy()
    assert shown.shape == (1000, 28, 28, 1) and shown.dtype == np.float32
    rectangles, corners = [], []
    for image in shown[(shown != -1).any(axis=(1, 2, 3)), :, :, 0]:
        rows, columns = (np.flatnonzero((image != -1).any(axis=axis)) for axis in (1, 0))
        rectangles.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        corners.append((rows[0], columns[0], rows[-1], columns[-1]))
    return rectangles, np.array(corners)


def test_erase_fills_a_rectangle_with_random_pixels_in_half_of_the_images(erased):
    rectangles, _ = erased
    assert 450 < len(rectangles) < 550
    pixels = np.concatenate([rectangle.ravel() for rectangle in rectangles])
    assert -1 not in pixels, "what was erased is a whole rectangle"
    assert pixels.min() >= 0 and pixels.max() < 1 and 0.48 < pixels.mean() < 0.52 and 0.27 < pixels.std() < 0.31
    assert all(rectangle.std() > 0.1 for rectangle in rectangles), "each pixel is drawn on its own"
    assert len({rectangle.tobytes() for rectangle in rectangles}) == len(rectangles)


def test_erase_draws_area_aspect_and_place_from_their_ranges(erased):
    rectangles, corners = erased
    area = np.array([rectangle.size for rectangle in rectangles]) / 28**2
    assert 0.01 < area.min() < 0.04 and 0.36 < area.max() < 0.43, "2 to 40 %, but for the rounding to pixels"
    assert 0.18 < area.mean() < 0.23
    height, width = np.array([rectangle.shape for rectangle in rectangles]).T
    aspect = np.log(height / width)[(height < 28) & (width < 28) & (area > 0.1)]
    low, high = np.log(augmentation.ERASE_ASPECT)
    rounding = 0.12
    assert low - rounding < aspect.min() < 0.7 * low and 0.7 * high < aspect.max() < high + rounding
    assert abs(aspect.mean()) < 0.15, "as often wide as tall"
    assert corners.min(axis=0)[:2].tolist() == [0, 0] and corners.max(axis=0)[2:].tolist() == [27, 27], "to each edge"


@pytest.mark.parametrize(("augment", "zeros", "noise"), [(["shift"], 1, 0), (["erase"], 0, 1), (ALL, 1, 1)])
def test_augmentations_do_not_imply_each_other(augment, zeros, noise):
    shown = augment_batch(np.full((200, 28, 28, 1), -1, "float32"), augment, tf.zeros(200, "bool"), KEY).numpy()
    assert ((shown == 0).any(), ((shown > 0) & (shown < 1)).any(), (shown == -1).any()) == (zeros, noise, True)
