"""Fashion-MNIST: fetched once, verified, loaded by Keras, and put into the form that a network takes.

The data set is by Zalando Research (Han Xiao, Kashif Rasul, Roland Vollgraf, 2017, arXiv:1708.07747), MIT licence.
`python -m fmnist_utils.data` fetches it and says where it came from.
"""

import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from sklearn.model_selection import train_test_split

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IMAGE_SHAPE = (28, 28, 1)
SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
SUBFOLDER = Path("datasets", "fashion-mnist")  # of Keras's home
DEBIAN_PACKAGE, DEBIAN_FOLDER = "dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist")
URLS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
STALL_SECONDS, TOTAL_SECONDS = 10, 600  # without an answer; of a source that answers, but slowly


class DatasetUnavailable(RuntimeError):
    """No source could deliver the four files; the message names each source, why it failed, and what to do."""


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Load the data set by `tf.keras.datasets.fashion_mnist.load_data()`, from verified files.

    Returns (x_train, y_train), (x_test, y_test): images (60000, 28, 28) and (10000, 28, 28) uint8 in 0 to 255, labels
    (60000,) and (10000,) uint8 in 0 to 9. Raises DatasetUnavailable.
    """
    from fmnist_utils._tensorflow import tf  # only here: who only splits or scales need not wait for TensorFlow

    ensure_dataset()
    return tf.keras.datasets.fashion_mnist.load_data()


def scale(x: np.ndarray) -> np.ndarray:
    """Scale (n, 28, 28) uint8 to [0, 1] with a channel, (n, 28, 28, 1) float32; ValueError if it is scaled already."""
    x = np.asarray(x)
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != IMAGE_SHAPE[:2]:
        raise ValueError(f"scale() takes images as loaded, (n, 28, 28) uint8; got {x.shape} {x.dtype}. Scaled already?")
    return x[..., np.newaxis].astype("float32") / 255


def one_hot(y: np.ndarray) -> np.ndarray:
    """Encode classes (n,), 0 to 9, as rows (n, 10) float32 by Keras's `to_categorical`; ValueError for others."""
    from fmnist_utils._tensorflow import tf

    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu" or (len(y) and (y.min() < 0 or y.max() > 9)):
        raise ValueError(f"one_hot() takes class numbers, (n,) whole numbers in 0..9; got {y.shape} {y.dtype}")
    return tf.keras.utils.to_categorical(y, num_classes=len(CLASS_NAMES)).astype("float32")


def stratified_split(y: np.ndarray, fraction: float = 0.2, seed: int = 0, train_size: int = 0) -> tuple:
    """Split a labelled set, `y` (n,) classes, into sorted positions of a training and a validation part, by class.

    `fraction`: the validation part's (0: none); `train_size`: so many of the other are kept (0: all), else ValueError.
    """
    train, valid = np.arange(len(y)), np.arange(0)
    if fraction:
        train, valid = train_test_split(train, test_size=fraction, stratify=y, random_state=seed)
    if train_size not in (0, len(train)):
        train, _ = train_test_split(train, train_size=train_size, stratify=y[train], random_state=seed)
    return np.sort(train), np.sort(valid)


def ensure_dataset() -> str:
    """Make sure that Keras's cache holds the four verified files; return the name of the source that served.

    Sources in order: the cache; the folder in FMNIST_DATA_DIR; Debian's package where it is installed; the addresses of
    Keras and of Zalando; that package, unpacked without installing it. Raises DatasetUnavailable.
    """
    from fmnist_utils._tensorflow import tf

    cache = "Keras's home"
    try:
        with redirect_stdout(io.StringIO()):  # Keras knows where it reads from: there its `get_file` puts a file
            here = tf.keras.utils.get_file(".keras_looks_here", origin=Path(__file__).as_uri(), cache_subdir="")
        cache = Path(here).parent / SUBFOLDER
        if _verified(cache):
            return f"the cache {cache}"
        cache.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(cache / ".lock", timeout=TOTAL_SECONDS),
            tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch,  # os.replace works within one disk
        ):
            return f"the cache {cache}" if _verified(cache) else _fetch(cache, Path(scratch), tf.keras.utils.get_file)
    except DatasetUnavailable:
        raise
    except Exception as error:  # Keras raises a bare one when it cannot write
        raise DatasetUnavailable(
            f"cannot write the data set into {cache}: {error}. Make room, stop the process that holds it, or name "
            "another folder in the environment variable KERAS_HOME."
        ) from error


def _verified(folder):
    try:
        return all(hashlib.sha256((folder / n).read_bytes()).hexdigest() == digest for n, digest in SHA256.items())
    except OSError:
        return False


def _fetch(cache, scratch, get_file):
    """Fetch the four files into `scratch` from the first source that serves, then move them into the cache."""
    debian, errors, usual = f"the Debian package {DEBIAN_PACKAGE}", [], socket.getdefaulttimeout()
    for source in filter(None, [os.environ.get("FMNIST_DATA_DIR"), DEBIAN_FOLDER, *URLS, debian]):
        name = "download"
        try:
            socket.setdefaulttimeout(STALL_SECONDS)
            folder = _unpack_debian_package(scratch) if source == debian else os.path.expanduser(source)
            address = source if source in URLS else Path(folder).absolute().as_uri() + "/"
            with redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # Keras's progress bar
                for name, digest in SHA256.items():
                    get_file(name, address + name, file_hash=digest, cache_dir=str(scratch), cache_subdir="")
        except Exception as error:  # Keras raises bare ones
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise  # our own disk, not the source
            lines = (getattr(error, "stderr", None) or str(error) or repr(error)).strip().splitlines()
            errors.append(f"{source}: {name}: {lines[-1][-200:]}")  # the cause stands last
        else:
            for name in SHA256:
                os.replace(scratch / name, cache / name)
            return str(source)
        finally:
            socket.setdefaulttimeout(usual)
    raise DatasetUnavailable(
        "Fashion-MNIST could not be downloaded. Tried:\n  - " + "\n  - ".join(errors) + "\n"
        "What to do: connect to the network and try again; or copy the four .gz files (from another machine's "
        "~/.keras/datasets/fashion-mnist, say) into a folder and set FMNIST_DATA_DIR to it."
    )


def _unpack_debian_package(folder):
    """Let apt download Debian's package into `folder`, as any user may, and unpack it; return where its files are."""
    options = {"check": True, "capture_output": True, "encoding": "utf-8", "timeout": TOTAL_SECONDS}
    run = partial(subprocess.run, cwd=folder, **options)
    apt = ["apt-get", "-oAPT::Sandbox::User=", f"-oAcquire::http::Timeout={STALL_SECONDS}", "-oAcquire::Retries=0"]
    try:
        run([*apt, "download", DEBIAN_PACKAGE])
    except subprocess.CalledProcessError:  # a bare machine has no package lists: fetch them into this folder
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        apt += [f"-oDir::State::Lists={folder / 'lists'}", f"-oDir::Cache={folder / 'cache'}"]
        run([*apt, "update"])
        run([*apt, "download", DEBIAN_PACKAGE])
    run(["dpkg-deb", "-x", *folder.glob("*.deb"), folder])
    return folder / DEBIAN_FOLDER.relative_to("/")


if __name__ == "__main__":
    try:
        print(f"Fashion-MNIST is in Keras's cache: four files, SHA-256 verified. Source: {ensure_dataset()}")
    except DatasetUnavailable as problem:
        sys.exit(str(problem))
