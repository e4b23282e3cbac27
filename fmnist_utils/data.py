"""Fashion-MNIST: fetched once, checked by hash, and put into the form that a network takes.

The data set is by Zalando Research (Han Xiao, Kashif Rasul, Roland Vollgraf, 2017, arXiv:1708.07747), MIT licence.
`python -m fmnist_utils.data` fetches it, checks it, and says where it came from.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
from filelock import FileLock, Timeout
from sklearn.model_selection import train_test_split
from tqdm import tqdm
from urllib3.exceptions import HTTPError

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
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
URLS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
CONNECT_SECONDS, STALL_SECONDS, TOTAL_SECONDS = 5, 10, 600  # of a download, before the next source is tried


class DatasetUnavailable(RuntimeError):
    """No source could deliver the four true files; the message names each source and why it failed."""


def load_raw():
    """Return the data set as `tf.keras.datasets.fashion_mnist.load_data()` gives it, from checked files.

    Returns (x_train, y_train), (x_test, y_test): images (60000, 28, 28) and (10000, 28, 28) uint8 in 0..255,
    labels (60000,) and (10000,) uint8 in 0..9. Raises DatasetUnavailable when no source can deliver the files.
    """
    from fmnist_utils._tensorflow import tf  # only here: who only fetches need not wait for TensorFlow

    ensure_dataset()
    return tf.keras.datasets.fashion_mnist.load_data()


def scale(x):
    """Scale pixels from 0..255 to [0, 1] and add the channel dimension.

    x: (n, 28, 28) uint8. Returns (n, 28, 28, 1) float32. Raises ValueError for any other type or shape, so that
    images cannot be scaled twice.
    """
    x = np.asarray(x)
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != IMAGE_SHAPE[:2]:
        raise ValueError(f"scale() takes images as loaded, (n, 28, 28) uint8; got {x.shape} {x.dtype}. Scaled already?")
    return x[..., np.newaxis].astype("float32") / 255


def one_hot(y):
    """Turn class numbers (n,) in 0..9 into one-hot rows (n, 10) float32.

    Raises ValueError for anything that is not a whole number in 0..9, such as labels that are one-hot already.
    """
    from fmnist_utils._tensorflow import tf

    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu" or (len(y) and (y.min() < 0 or y.max() > 9)):
        raise ValueError(f"one_hot() takes class numbers, (n,) whole numbers in 0..9; got {y.shape} {y.dtype}")
    return tf.keras.utils.to_categorical(y, num_classes=len(CLASS_NAMES)).astype("float32")


def split_indices(y, fraction=0.2, seed=0, train_size=0):
    """Choose which images train and which validate, each class in the same share in both parts.

    y: (n,) class numbers. fraction: the validation share, 0 < fraction < 1. seed: of the split alone.
    train_size: keep only so many of the training part, stratified too; 0 keeps all. The validation part does not
    depend on it. Returns (train_index, valid_index), sorted int arrays without a common element. Raises ValueError
    when a class would be left without an image.
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


def cache_folder():
    """Return the folder that Keras reads the data set from (~/.keras/datasets/fashion-mnist, or KERAS_HOME's)."""
    user = Path.home()
    home = Path(os.environ.get("KERAS_HOME") or user / ".keras").expanduser()
    if not os.access(home, os.W_OK) or not (os.environ.get("KERAS_HOME") or os.access(user, os.W_OK)):
        home = Path("/tmp/.keras")  # Keras's own fallback (keras.utils.get_file)
    return home / "datasets" / "fashion-mnist"


def ensure_dataset(cache=None):
    """Make sure that Keras's cache holds the four true files; return the name of the source that served.

    Sources, in order: the cache; the folder in FMNIST_DATA_DIR; Debian's package where it is installed; the
    download addresses of Keras and of Zalando; on Debian and Ubuntu that package, unpacked without installing it.
    Every file is checked by SHA-256 before it is put in place, in one step. Raises DatasetUnavailable.
    """
    cache = Path(cache) if cache else cache_folder()
    trouble = [f"the cache {cache}: {problem}" for problem in problems(cache)]
    if not trouble:
        return f"the cache {cache}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock", timeout=2 * TOTAL_SECONDS), _scratch(cache) as scratch:
            if not problems(cache):
                return f"the cache {cache}, filled by another process meanwhile"
            return _fetch(cache, scratch, trouble)
    except Timeout as error:
        raise DatasetUnavailable(f"another process has held {cache / '.lock'} for too long: stop it first") from error
    except OSError as error:
        raise DatasetUnavailable(
            f"cannot write the data set into {cache}: {error}. Make room or make it writable, or name another "
            "folder in the environment variable KERAS_HOME."
        ) from error


def problems(folder):
    """Return what is wrong with the four files in `folder`, one line each; an empty list means all are true."""
    found = []
    for name, wanted in SHA256.items():
        path = Path(folder) / name
        try:
            with path.open("rb") as file:
                true = hashlib.file_digest(file, "sha256").hexdigest() == wanted
            if not true:
                found.append(f"{name} is damaged or cut short ({path.stat().st_size:,} bytes, wrong SHA-256)")
        except FileNotFoundError:
            found.append(f"{name} is not there")
        except OSError as error:
            found.append(f"{name} cannot be read: {error}")
    return found


def _scratch(cache):
    # inside the cache: os.replace is only atomic within one file system
    for left in cache.glob(".fetch-*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(left)
    return tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache)


def _sources():
    """Yield (name, function that brings the four files into a folder), in the order in which they are tried."""
    if os.environ.get("FMNIST_DATA_DIR"):
        folder = Path(os.environ["FMNIST_DATA_DIR"]).expanduser()
        yield f"FMNIST_DATA_DIR ({folder})", lambda scratch: _copy(folder, scratch)
    yield f"the Debian package's folder {DEBIAN_FOLDER}", lambda scratch: _copy(DEBIAN_FOLDER, scratch)
    for url in URLS:
        yield url, lambda scratch, url=url: _download(url, scratch)
    yield f"the Debian package {DEBIAN_PACKAGE}", _unpack_debian_package


def _fetch(cache, scratch, trouble):
    for source, bring in _sources():
        folder = Path(scratch) / str(len(trouble))
        folder.mkdir()
        try:
            bring(folder)
        except (OSError, HTTPError, subprocess.SubprocessError) as error:  # requests' errors are OSErrors
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise  # our own disk, not the source
            trouble.append(f"{source}: {_short(error)}")
            continue
        wrong = problems(folder)
        if wrong:
            trouble.append(f"{source}: {'; '.join(wrong)}")
            continue
        for name in SHA256:
            os.replace(folder / name, cache / name)
        return source
    raise DatasetUnavailable(
        "Fashion-MNIST could not be had. Tried:\n  - " + "\n  - ".join(trouble) + "\n"
        "What to do: connect to the network and try again; or copy the four .gz files (from another machine's "
        "~/.keras/datasets/fashion-mnist, say) into a folder and set FMNIST_DATA_DIR to it."
    )


def _copy(source, folder):
    if not source.is_dir():
        raise FileNotFoundError("no such folder")
    for name in SHA256:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _download(url, folder):
    deadline = time.monotonic() + TOTAL_SECONDS
    for name in SHA256:
        plain = {"Accept-Encoding": "identity"}  # the files are gzip already
        with requests.get(url + name, stream=True, headers=plain, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
            response.raise_for_status()
            size = response.headers.get("Content-Length", "")
            with (folder / name).open("wb") as file, _bar(name, int(size) if size.isdigit() else None) as bar:
                while chunk := response.raw.read1(1 << 16):  # what is there: iter_content would wait for all 64 KiB
                    file.write(chunk)
                    bar.update(len(chunk))
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"too slow: not done after {TOTAL_SECONDS} s")


def _bar(name, size):
    # only where somebody watches: a progress bar has no place in a stored notebook or in a log
    return tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=not sys.stderr.isatty())


def _unpack_debian_package(folder):
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise FileNotFoundError("this is not a Debian or Ubuntu system")
    try:
        _apt(folder, "download", DEBIAN_PACKAGE)
    except subprocess.CalledProcessError:  # a bare machine has no package lists: fetch them into our own folder
        own = _own_lists(folder)
        _apt(folder, *own, "update")
        _apt(folder, *own, "download", DEBIAN_PACKAGE)
    subprocess.run(["dpkg-deb", "-x", *folder.glob("*.deb"), folder], check=True, capture_output=True, timeout=60)
    _copy(folder / DEBIAN_FOLDER.relative_to("/"), folder)


def _own_lists(folder):
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    return ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]


def _apt(folder, *words):
    patience = [
        "-o",
        f"Acquire::http::Timeout={STALL_SECONDS}",
        "-o",
        "Acquire::Retries=0",
        "-o",
        "APT::Sandbox::User=",
    ]
    command = ["apt-get", "-q", *patience, *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=TOTAL_SECONDS)


def _short(error):
    text = getattr(error, "stderr", None) or str(error)
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[-200:]  # the cause stands last


def main():
    """Fetch and check the data set; print which source served, or why none did."""
    try:
        print(f"Fashion-MNIST is in {cache_folder()}: four files, SHA-256 checked. Source: {ensure_dataset()}")
    except DatasetUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
