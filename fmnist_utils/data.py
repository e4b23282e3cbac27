"""Fashion-MNIST, loaded by Keras from checked files and put into the form that a network takes.

The data set is by Zalando Research (Han Xiao, Kashif Rasul, Roland Vollgraf, 2017, arXiv:1708.07747), MIT licence.
`python -m fmnist_utils.data` fetches it, checks it, and says where it came from.
"""

import sys

import numpy as np
from sklearn.model_selection import train_test_split

from fmnist_utils._download import DatasetUnavailable, cache_folder, ensure_dataset

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IMAGE_SHAPE = (28, 28, 1)


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Load the data set by `tf.keras.datasets.fashion_mnist.load_data()`, from checked files.

    Returns:
        (x_train, y_train), (x_test, y_test): images (60000, 28, 28) and (10000, 28, 28) uint8 in 0 to 255, labels
        (60000,) and (10000,) uint8 in 0 to 9.

    Raises:
        DatasetUnavailable: No source can deliver the files.
    """
    from fmnist_utils._tensorflow import tf  # only here: who only splits or scales need not wait for TensorFlow

    ensure_dataset()
    return tf.keras.datasets.fashion_mnist.load_data()


def scale(x: np.ndarray) -> np.ndarray:
    """Scale pixels from 0–255 to [0, 1] and add the channel dimension.

    Args:
        x: (n, 28, 28) uint8.

    Returns:
        (n, 28, 28, 1) float32.

    Raises:
        ValueError: `x` has another type or shape, so that images cannot be scaled twice.
    """
    x = np.asarray(x)
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != IMAGE_SHAPE[:2]:
        raise ValueError(f"scale() takes images as loaded, (n, 28, 28) uint8; got {x.shape} {x.dtype}. Scaled already?")
    return x[..., np.newaxis].astype("float32") / 255


def one_hot(y: np.ndarray) -> np.ndarray:
    """Encode class numbers as one-hot rows, by `tf.keras.utils.to_categorical`.

    Args:
        y: (n,) whole numbers in 0 to 9.

    Returns:
        (n, 10) float32.

    Raises:
        ValueError: `y` is anything else, such as labels that are one-hot already.
    """
    from fmnist_utils._tensorflow import tf

    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu" or (len(y) and (y.min() < 0 or y.max() > 9)):
        raise ValueError(f"one_hot() takes class numbers, (n,) whole numbers in 0..9; got {y.shape} {y.dtype}")
    return tf.keras.utils.to_categorical(y, num_classes=len(CLASS_NAMES)).astype("float32")


def stratified_split(
    y: np.ndarray, fraction: float = 0.2, seed: int = 0, train_size: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split a labelled set into a training and a validation part, each class in the same proportion in both.

    Args:
        y: (n,) class numbers.
        fraction: The validation part's share, 0 < fraction < 1.
        seed: Of the split alone.
        train_size: Keep only so many images of the training part, stratified too; 0 keeps all. The validation part
            does not depend on it.

    Returns:
        train_index, valid_index: sorted positions in `y`, without a common element.

    Raises:
        ValueError: A class would be left without an image.
    """
    index = np.arange(len(y))
    train, valid = train_test_split(index, test_size=fraction, stratify=y, random_state=seed)
    if train_size not in (0, len(train)) and not len(CLASS_NAMES) <= train_size <= len(train) - len(CLASS_NAMES):
        raise ValueError(
            f"train_size = {train_size}: allowed are 0 or {len(train)} (the whole training part) and "
            f"{len(CLASS_NAMES)} to {len(train) - len(CLASS_NAMES)}"
        )
    if train_size and train_size < len(train):
        train, _ = train_test_split(train, train_size=train_size, stratify=y[train], random_state=seed)
    return np.sort(train), np.sort(valid)


def main():
    """Fetch and check the data set; print which source served, or why none did."""
    try:
        source = ensure_dataset()
        print(f"Fashion-MNIST is in {cache_folder()}: four files, SHA-256 checked. Source: {source}")
    except DatasetUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
