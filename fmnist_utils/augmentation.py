"""Augmented batches of the training images, as one tf.data pipeline."""

import math

from fmnist_utils._tensorflow import tf

ERASE_PROBABILITY = 0.5
ERASE_AREA = (0.02, 0.4)  # share of the image
ERASE_ASPECT = (0.3, 1 / 0.3)  # height / width


def augmented_batches(x, y, batch_size, *, epochs=1, initial_epoch=0, augment="none", max_shift=1, seed=0):
    """Return the batches of the epochs from `initial_epoch` on, one after the other, as a tf.data.Dataset.

    x: (n, 28, 28, 1) float32 in [0, 1]; y: (n, 10) one-hot. augment: "none", "flip", "flip_shift" or
    "flip_shift_erase", see `augment_batch`. max_shift: pixels. Yields (batch, 28, 28, 1) float32 and (batch, 10).

    Order and augmentation come from (seed, epoch, batch) alone, so a training that goes on after an interruption
    sees what it would have seen. An image is flipped in every other epoch, which shows it both ways more evenly than
    a coin does (alternating flip: Jordan 2024, arXiv:2404.00498).
    """
    x, y = tf.constant(x), tf.constant(y)
    key = tf.constant([seed, 0])
    first_flips = tf.random.stateless_uniform([len(x)], tf.random.experimental.stateless_fold_in(key, -1)) < 0.5

    def batches_of(epoch):
        epoch_key = tf.random.experimental.stateless_fold_in(key, epoch)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), seed=epoch_key)

        def batch(number, index):
            flip_mask = tf.math.logical_xor(tf.gather(first_flips, index), epoch % 2 == 1)
            batch_key = tf.random.experimental.stateless_fold_in(epoch_key, number + 1)
            images = augment_batch(tf.gather(x, index), augment, flip_mask, batch_key, max_shift)
            return images, tf.gather(y, index)

        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate().map(batch)

    batches = tf.data.Dataset.range(initial_epoch, epochs).flat_map(batches_of).prefetch(4)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1  # the network needs the cores more
    options.autotune.enabled, options.deterministic = False, True
    return batches.with_options(options)


def augment_batch(x, augment, flip_mask, key, max_shift=1):
    """Return a batch of images flipped, shifted and erased as `augment` says.

    x: (n, 28, 28, 1) float32. flip_mask: (n,) bool, the images to mirror left to right. key: (2,) integers, the seed.
    "shift" moves each image by up to `max_shift` pixels each way, zeros come in; "erase" is `random_erasing`.
    """
    shift_key, erase_key = tf.unstack(tf.random.experimental.stateless_split(key, 2))
    if "flip" in augment:
        x = tf.where(flip_mask[:, None, None, None], x[:, :, ::-1], x)
    if "shift" in augment:
        x = random_translation(x, shift_key, max_shift)
    return random_erasing(x, erase_key) if "erase" in augment else x


def random_translation(x, key, max_shift):
    """Return the images (n, h, w, 1), each moved by -max_shift to max_shift pixels down and right; zeros come in."""
    n, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    top, left = tf.unstack(tf.random.stateless_uniform([2, n, 1], key, 0, 2 * max_shift + 1, tf.int32))
    padded = tf.pad(x, [[0, 0], [max_shift, max_shift], [max_shift, max_shift], [0, 0]])
    rows = tf.gather(padded, top + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, left + tf.range(width), axis=2, batch_dims=1)


def random_erasing(x, key):
    """Return the images (n, h, w, 1) in [0, 1], half of them with a rectangle of random pixels.

    The rectangle takes 2 to 40 % of the area, its height 0.3 to 3.3 times its width (Zhong et al. 2017,
    arXiv:1708.04896); one too long for the image is cut to its side, where the authors draw another.
    """
    n, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    size_key, noise_key = tf.unstack(tf.random.experimental.stateless_split(key, 2))
    chance, area, aspect, down, right = tf.unstack(tf.random.stateless_uniform([5, n, 1], size_key))
    area = height * width * (ERASE_AREA[0] + area * (ERASE_AREA[1] - ERASE_AREA[0]))
    low, high = map(math.log, ERASE_ASPECT)
    aspect = tf.exp(low + aspect * (high - low))
    tall = tf.minimum(tf.round(tf.sqrt(area * aspect)), height)
    wide = tf.minimum(tf.round(tf.sqrt(area / aspect)), width)
    top, left = tf.floor(down * (height - tall + 1)), tf.floor(right * (width - wide + 1))
    rows, columns = tf.range(height, dtype="float32"), tf.range(width, dtype="float32")
    inside_rows = (rows >= top) & (rows < top + tall) & (chance < ERASE_PROBABILITY)
    inside_columns = (columns >= left) & (columns < left + wide)
    inside = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
    return tf.where(inside, tf.random.stateless_uniform(tf.shape(x), noise_key), x)
