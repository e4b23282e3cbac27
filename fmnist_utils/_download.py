"""The data set's four files: fetched once from the first source that serves, checked by hash, put where Keras looks."""

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError

SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
DATASET = Path("datasets", "fashion-mnist")  # under Keras's home
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
URLS = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
CONNECT_SECONDS, STALL_SECONDS, TOTAL_SECONDS = 5, 10, 600  # of a download, before the next source is tried


class DatasetUnavailable(RuntimeError):
    """No source could deliver the four true files; the message names each source and why it failed."""


def cache_folder():
    """Return the folder that Keras reads the data set from: where Keras's own `get_file` puts a file, so Keras decides.

    Raises:
        DatasetUnavailable: Keras finds no folder that it can write.
    """
    from fmnist_utils._tensorflow import tf

    try:
        with redirect_stdout(io.StringIO()):  # or it would report that it downloads
            here = tf.keras.utils.get_file(".keras_looks_here", origin=Path(__file__).as_uri(), cache_subdir="")
    except Exception as error:  # Keras raises a bare Exception when it cannot write
        raise DatasetUnavailable(
            f"Keras cannot write its cache: {error}. Make room or make it writable, or name another folder in the "
            "environment variable KERAS_HOME."
        ) from error
    return Path(here).parent / DATASET


def ensure_dataset(cache=None):
    """Make sure that Keras's cache holds the four true files; return the name of the source that served.

    Sources, in order: the cache; the folder in FMNIST_DATA_DIR; a home of Keras's that cannot be written, which Keras
    passes over; Debian's package where it is installed; the download addresses of Keras and of Zalando; on Debian and
    Ubuntu that package, unpacked without installing it. Every file is checked by SHA-256 before it is put in place, in
    one step.

    Args:
        cache (Path or None): A folder; None asks `cache_folder`.

    Raises:
        DatasetUnavailable: No source served.
    """
    cache = Path(cache) if cache else cache_folder()
    errors = [f"the cache {cache}: {problem}" for problem in verify_files(cache)]
    if not errors:
        return f"the cache {cache}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock", timeout=2 * TOTAL_SECONDS), _scratch(cache) as scratch:
            if not verify_files(cache):
                return f"the cache {cache}, filled by another process meanwhile"
            return _fetch(cache, scratch, errors)
    except Timeout as error:
        raise DatasetUnavailable(f"another process has held {cache / '.lock'} for too long: stop it first") from error
    except OSError as error:
        raise DatasetUnavailable(
            f"cannot write the data set into {cache}: {error}. Make room or make it writable, or name another "
            "folder in the environment variable KERAS_HOME."
        ) from error


def verify_files(folder):
    """Return what is wrong with the four files in `folder`, a line each; [] when all are true."""
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


def _sources(cache):
    """Yield (name, function that fetches the four files into a folder), in the order in which they are tried."""
    if os.environ.get("FMNIST_DATA_DIR"):
        folder = Path(os.environ["FMNIST_DATA_DIR"]).expanduser()
        yield f"FMNIST_DATA_DIR ({folder})", lambda scratch: _copy(folder, scratch)
    for home in dict.fromkeys((os.environ.get("KERAS_HOME") or "~/.keras", "~/.keras")):
        folder = Path(os.path.expanduser(home)) / DATASET
        if folder.is_dir() and folder.resolve() != cache.resolve():
            yield f"the folder {folder}", lambda scratch, folder=folder: _copy(folder, scratch)
    yield f"the Debian package's folder {DEBIAN_FOLDER}", lambda scratch: _copy(DEBIAN_FOLDER, scratch)
    for url in URLS:
        yield url, lambda scratch, url=url: _download(url, scratch)
    yield f"the Debian package {DEBIAN_PACKAGE}", _unpack_debian_package


def _fetch(cache, scratch, errors):
    for source, fetch in _sources(cache):
        folder = Path(scratch) / str(len(errors))
        folder.mkdir()
        try:
            fetch(folder)
        except (OSError, HTTPError, subprocess.SubprocessError) as error:  # requests' errors are OSErrors
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise  # our own disk, not the source
            errors.append(f"{source}: {_short(error)}")
            continue
        wrong = verify_files(folder)
        if wrong:
            errors.append(f"{source}: {'; '.join(wrong)}")
            continue
        for name in SHA256:
            os.replace(folder / name, cache / name)
        return source
    raise DatasetUnavailable(
        "Fashion-MNIST could not be had. Tried:\n  - " + "\n  - ".join(errors) + "\n"
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
    settings = (f"Acquire::http::Timeout={STALL_SECONDS}", "Acquire::Retries=0", "APT::Sandbox::User=")
    command = ["apt-get", "-q", *(word for setting in settings for word in ("-o", setting)), *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=TOTAL_SECONDS)


def _short(error):
    text = getattr(error, "stderr", None) or str(error)
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[-200:]  # the cause stands last
