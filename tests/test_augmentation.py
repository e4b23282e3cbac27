"""augmented_batches shows each image once an epoch with its label, reproducibly, and changes it as asked, no more."""

import numpy as np
import pytest

from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import augment_batch, augmented_batches, random_erasing

KEY, NO_FLIP, ALL = tf.constant([7, 1]), tf.zeros(400, "bool"), ["flip", "shift", "erase"]
X = np.random.default_rng(0).random((200, 28, 28, 1), dtype="float32")  # all differ, in the mirror too
Y = np.eye(200, dtype="float32")  # which image it is
SQUARE = np.zeros((200, 28, 28, 1), "float32")  # in the mirror the same: only a shift changes it
SQUARE[:, 13:15, 13:15] = 1


def batches(x=X, batch_size=32, **changes):
    return [(images.numpy(), labels.numpy()) for images, labels in augmented_batches(x, Y, batch_size, **changes)]


def joined(*args, **changes):
    """Return the images of all batches, one below the other, and the place of each among `X`."""
    images, labels = (np.concatenate(part) for part in zip(*batches(*args, **changes), strict=True))
    return images, labels.argmax(axis=1)


def test_batches_again_and_from_a_later_epoch_on():
    settings = {"epochs": 5, "augment": ALL, "max_shift": 2, "seed": 3}
    every = batches(**settings)
    np.testing.assert_equal(batches(**settings), every)
    np.testing.assert_equal(batches(initial_epoch=3, **settings), every[3 * 7 :])
    assert batches(initial_epoch=5, **settings) == []


def test_epoch_shows_every_image_once_with_its_label():
    images, order = joined()
    assert sorted(order) == list(range(200)) and not np.array_equal(order, np.arange(200))
    np.testing.assert_array_equal(images, X[order])
    assert [len(x) for x, _ in batches(batch_size=60, epochs=2)] == 2 * [60, 60, 60, 20], "the last is the short rest"
    assert augmented_batches(X, Y, 32, augment=ALL).element_spec[0].shape.as_list() == [None, 28, 28, 1]


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 2, "initial_epoch": 1}], ids=["seed", "epoch"])
def test_order_and_shift_differ_between_seeds_and_epochs(change):
    (first, order), (other, other_order) = (joined(SQUARE, augment=["shift"], max_shift=3, **o) for o in ({}, change))
    assert not np.array_equal(order, other_order) and not np.array_equal(first, other)
    assert not np.array_equal(*joined(SQUARE, 100, augment=["shift"], max_shift=3)[0].reshape(2, -1)), "two batches"


@pytest.mark.parametrize("augment", ["flip", ["mirror"], ["flip", "none"]])
def test_unknown_augmentation(augment):
    with pytest.raises(ValueError, match=r"allowed is a list of some of .*flip.*\[\] for none"):
        augmented_batches(X, Y, 32, augment=augment)


def test_flip_alternates_from_epoch_to_epoch():
    mirrored = []
    for options in ({}, {"epochs": 2, "initial_epoch": 1}, {"epochs": 3, "initial_epoch": 2}, {"seed": 1}):
        images, order = joined(augment=["flip"], **options)
        mirrored.append((images[np.argsort(order)] == X[:, :, ::-1]).all(axis=(1, 2, 3)))
    first, second, third, other = mirrored
    assert (first != second).all() and (first == third).all() and 0.3 < first.mean() < 0.7 and (first != other).any()


@pytest.mark.parametrize("augment", [[], ["flip"], ["shift"], ALL])
def test_flip_mirrors_the_images_of_its_mask_only(augment):
    mask = np.arange(200) % 3 == 0
    shown = np.asarray(augment_batch(X, augment, mask, KEY, max_shift=0))
    mirrored = (shown == X[:, :, ::-1]).mean(axis=(1, 2, 3)) > 0.5  # the rest may be erased
    np.testing.assert_array_equal(mirrored, mask & ("flip" in augment))


@pytest.mark.parametrize(("options", "reach"), [({"max_shift": 0}, 0), ({}, 1), ({"max_shift": 3}, 3)])
def test_shift_reaches_each_place_and_brings_in_zeros(options, reach):
    point = np.zeros((400, 28, 28, 1), "float32")
    point[:, 13, 13] = 1
    places = np.argwhere(augment_batch(point, ["shift"], NO_FLIP, KEY, **options))[:, 1:3] - 13
    assert len(places) == 400 and np.abs(places).max() == reach
    assert len(np.unique(places, axis=0)) == (2 * reach + 1) ** 2, "down and right are drawn independently"
    bright = augment_batch(np.ones_like(point), ["shift"], NO_FLIP, KEY, **options).numpy().sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(bright, [(28 - abs(down)) * (28 - abs(right)) for down, right in places])
    of_batches = np.argwhere(joined(SQUARE, augment=["shift"], **options)[0])[:, 1:3]
    assert {*of_batches.min(axis=0), *of_batches.max(axis=0)} == {13 - reach, 14 + reach}


def test_erase_fills_a_rectangle_with_random_pixels_in_half_of_the_images():
    rectangles, corners = [], []
    for image in random_erasing(np.full((1000, 28, 28, 1), -1, "float32"), KEY).numpy()[..., 0]:
        if len(inside := np.argwhere(image != -1)):
            (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
            corners.append((top, left, bottom, right))
            rectangles.append(image[top : bottom + 1, left : right + 1])
    pixels = np.concatenate([rectangle.ravel() for rectangle in rectangles])
    assert 450 < len(rectangles) < 550 and -1 not in pixels, "half of the images, whole rectangles"
    assert pixels.min() >= 0 and pixels.max() < 1 and 0.48 < pixels.mean() < 0.52 and 0.27 < pixels.std() < 0.31
    assert all(rectangle.std() > 0.1 for rectangle in rectangles), "each pixel is drawn on its own"
    assert len({rectangle.tobytes() for rectangle in rectangles}) == len(rectangles)
    area = np.array([rectangle.size for rectangle in rectangles]) / 28**2
    assert 0.01 < area.min() < 0.04 and 0.36 < area.max() < 0.43, "2 to 40 %, but for the rounding to pixels"
    height, width = np.array([rectangle.shape for rectangle in rectangles]).T
    aspect = np.log(height / width)[(height < 28) & (width < 28) & (area > 0.1)]
    low, high = np.log([0.3, 1 / 0.3])
    assert low - 0.12 < aspect.min() < 0.7 * low and 0.7 * high < aspect.max() < high + 0.12, "0.12 for the rounding"
    assert abs(aspect.mean()) < 0.15 and 0.18 < area.mean() < 0.23
    assert [*np.min(corners, axis=0)[:2], *np.max(corners, axis=0)[2:]] == [0, 0, 27, 27], "to each edge"


@pytest.mark.parametrize(("augment", "zeros", "noise"), [(["shift"], 1, 0), (["erase"], 0, 1), (ALL, 1, 1)])
def test_augmentations_do_not_imply_each_other(augment, zeros, noise):
    shown = augment_batch(np.full((400, 28, 28, 1), -1, "float32"), augment, NO_FLIP, KEY).numpy()
    assert ((shown == 0).any(), ((shown > 0) & (shown < 1)).any(), (shown == -1).any()) == (zeros, noise, True)
