"""Augmented batches of the training images, as one tf.data pipeline."""

import math

from fmnist_utils._tensorflow import tf


def augmented_batches(x, y, batch_size, *, epochs=1, initial_epoch=0, augment=(), max_shift=1, seed=0):
    """Make the batches, (images, labels), of the epochs from `initial_epoch` to `epochs`, as a tf.data.Dataset.

    `x`: (n, 28, 28, 1) in [0, 1]; `augment`: names from `AUGMENTATIONS`, in this order, else ValueError. Order and
    changes come from (seed, epoch, batch) alone, so an interrupted training sees what it would have seen. "flip"
    mirrors each image in every other epoch (Jordan 2024, arXiv:2404.00498).
    """
    if isinstance(augment, str) or set(augment) - set(AUGMENTATIONS):
        raise ValueError(f"augment = {augment!r}: allowed is a list of some of {', '.join(AUGMENTATIONS)}; [] for none")
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
    """Augment images (n, 28, 28, 1); `flip_mask`: (n,) bool, those that "flip" mirrors; `key`: (2,) int, the seed."""
    keys = tf.unstack(tf.random.experimental.stateless_split(key, len(AUGMENTATIONS)))
    key_of = dict(zip(AUGMENTATIONS, keys, strict=True))
    for name in augment:
        x = AUGMENTATIONS[name](x, key_of[name], flip_mask, max_shift)
    return x


def random_translation(x, key, max_shift):
    """Move each image (n, h, w, 1) by −max_shift to max_shift pixels down and right; zeros come in."""
    n, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    top, left = tf.unstack(tf.random.stateless_uniform([2, n, 1], key, 0, 2 * max_shift + 1, tf.int32))
    padded = tf.pad(x, [[0, 0], [max_shift, max_shift], [max_shift, max_shift], [0, 0]])
    rows = tf.gather(padded, top + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, left + tf.range(width), axis=2, batch_dims=1)


def random_erasing(x, key):
    """Put noise into a rectangle, 2 to 40 % of the area, of half of the images (Zhong et al., arXiv:1708.04896)."""
    n, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    size_key, noise_key = tf.unstack(tf.random.experimental.stateless_split(key, 2))
    chance, area, aspect, down, right = tf.unstack(tf.random.stateless_uniform([5, n, 1], size_key))
    area = height * width * (0.02 + area * (0.4 - 0.02))
    low, high = math.log(0.3), math.log(1 / 0.3)  # of height / width
    aspect = tf.exp(low + aspect * (high - low))
    # one too long for the image is cut to its side, where the authors draw another
    tall = tf.minimum(tf.round(tf.sqrt(area * aspect)), height)
    wide = tf.minimum(tf.round(tf.sqrt(area / aspect)), width)
    top, left = tf.floor(down * (height - tall + 1)), tf.floor(right * (width - wide + 1))
    rows, columns = tf.range(height, dtype="float32"), tf.range(width, dtype="float32")
    inside_rows = (rows >= top) & (rows < top + tall) & (chance < 0.5)
    inside_columns = (columns >= left) & (columns < left + wide)
    inside = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
    return tf.where(inside, tf.random.stateless_uniform(tf.shape(x), noise_key), x)


AUGMENTATIONS = {  # a new one comes last: each name has its own random numbers, by its place
    "shift": lambda x, key, flip_mask, max_shift: random_translation(x, key, max_shift),
    "erase": lambda x, key, flip_mask, max_shift: random_erasing(x, key),
    "flip": lambda x, key, flip_mask, max_shift: tf.where(flip_mask[:, None, None, None], x[:, :, ::-1], x),
}
