"""The data set: where its four files come from, the form that a network takes, and the split."""

import errno
import hashlib
import os
import socket
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from fmnist_utils import data

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
NAMES = tuple(data.SHA256)
TRUE = {name: name.encode() * 40 for name in NAMES}  # small stand-ins for the real files
WRONG = TRUE | {NAMES[2]: b"other data"}


def test_scale_and_one_hot():
    x = np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)
    scaled, rows = data.scale(x), data.one_hot(np.array([3, 0, 9], np.uint8))
    assert (scaled.shape, scaled.dtype, scaled.min(), scaled.max()) == ((2, 28, 28, 1), np.float32, 0, 1)
    np.testing.assert_array_equal(np.round(scaled[..., 0] * 255), x)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.eye(10)[[3, 0, 9]])


NO_IMAGES = [np.zeros((2, 28, 28)), np.zeros((2, 28, 28, 1), np.uint8), np.zeros((2, 32, 32), np.uint8)]
NO_CLASSES = [np.eye(10, dtype=int), [1.0], [10], [-1], [True]]


@pytest.mark.parametrize("call", [(data.scale, x) for x in NO_IMAGES] + [(data.one_hot, y) for y in NO_CLASSES])
def test_scale_and_one_hot_not_as_loaded(call):
    with pytest.raises(ValueError, match=rf"{call[0].__name__}\(\) takes"):
        call[0](call[1])


@pytest.mark.parametrize(("options", "each"), [({}, 20), ({"fraction": 0.35}, 35), ({"fraction": 0.0}, 0)], ids=str)
def test_split_shares(options, each):
    train, valid = data.stratified_split(LABELS, **options)
    assert sorted([*train, *valid]) == list(range(len(LABELS)))
    assert np.bincount(LABELS[valid], minlength=10).tolist() == [each] * 10


@pytest.mark.parametrize("train_size", [0, 250])
def test_split_seed(train_size):
    first, again, other = (data.stratified_split(LABELS, seed=seed, train_size=train_size) for seed in (1, 1, 2))
    for part in (0, 1):
        assert first[part].tolist() == again[part].tolist() != other[part].tolist()


@pytest.mark.parametrize("train_size", [10, 250, 790, 800])
def test_split_train_size(train_size):
    """It is kept exactly, stratified, and leaves the validation part alone."""
    (train_all, valid_all), (train, valid) = (data.stratified_split(LABELS, train_size=n) for n in (0, train_size))
    np.testing.assert_array_equal(valid, valid_all)
    assert len(set(train)) == train_size and set(train) <= set(train_all)
    assert np.ptp(np.bincount(LABELS[train], minlength=10)) <= 1


@pytest.mark.parametrize("train_size", [801, 9, -1, 795])
def test_split_impossible_train_size(train_size):
    with pytest.raises(ValueError, match=r"(train|test)_size"):
        data.stratified_split(LABELS, train_size=train_size)


def test_real_data_form():
    assert ",".join(data.CLASS_NAMES) == "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    for (x, y), each in zip(data.load_data(), (6000, 1000), strict=True):
        assert (x.shape, x.dtype, y.dtype, np.ptp(x)) == ((10 * each, 28, 28), np.uint8, np.uint8, 255)
        assert np.bincount(y).tolist() == [each] * 10


def fill(folder, files=TRUE):
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a damaged file, sources that are folders, and an apt-get that needs package lists of its own."""
    monkeypatch.setattr("keras.src.backend.config.keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(data, "SHA256", {name: hashlib.sha256(TRUE[name]).hexdigest() for name in NAMES})
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(data, "URLS", tuple((tmp_path / name).as_uri() + "/" for name in ("keras", "zalando")))
    monkeypatch.setenv("FMNIST_DATA_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    apt = "case $* in *Lists=*update);; *Lists=*download*) touch x.deb;; *) echo E: no >&2; false; esac"
    for name, script in {"apt-get": apt, "dpkg-deb": 'mkdir -p "$3{0}" && cp -r {0}/package "$3{0}/debian"'}.items():
        (tmp_path / name).write_text("#!/bin/sh\n" + script.format(tmp_path), encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    fill(tmp_path / data.SUBFOLDER, WRONG)
    return tmp_path / data.SUBFOLDER


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("first", range(5))
def test_first_source_with_the_true_files(first, cache, tmp_path):
    for place, folder in enumerate(("own", "debian", "keras", "zalando", "package")):
        fill(tmp_path / folder, TRUE if place >= first else WRONG)
    sources = [str(tmp_path / "own"), str(tmp_path / "debian"), *data.URLS, f"the Debian package {data.DEBIAN_PACKAGE}"]
    assert data.ensure_dataset() == sources[first]
    assert content(cache) == TRUE
    assert data.ensure_dataset() == f"the cache {cache}"


def test_no_source(cache, tmp_path, monkeypatch):
    """Each is named with its reason, a silent server after a time-out; the cache stays as it is."""
    fill(tmp_path / "own", WRONG)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(data.DatasetUnavailable) as error:
        monkeypatch.setattr(data, "URLS", (f"http://127.0.0.1:{silent.getsockname()[1]}/",))
        monkeypatch.setattr(data, "STALL_SECONDS", 0.2)
        monkeypatch.setenv("no_proxy", "*")
        data.ensure_dataset()
    reasons = f"own: {NAMES[2]}: Incomplete", f"debian: {NAMES[2]}", "timed out", "package", "set FMNIST_DATA_DIR to it"
    places = [str(error.value).index(reason) for reason in reasons]
    assert places == sorted(places) and content(cache) == WRONG


def test_cache_full_or_locked_or_filled_by_another_process(cache, tmp_path, monkeypatch, hold_lock):
    fill(tmp_path / "own")
    with monkeypatch.context() as patch, pytest.raises(data.DatasetUnavailable, match=r"full.*Make room.*KERAS_HOME"):
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        data.ensure_dataset()
    holder = hold_lock(cache / ".lock")
    with monkeypatch.context() as patch, pytest.raises(data.DatasetUnavailable, match="stop the process that holds it"):
        patch.setattr(data, "TOTAL_SECONDS", 0.05)
        data.ensure_dataset()
    assert content(cache) == WRONG
    holder.kill(), holder.wait()
    monkeypatch.setattr(data, "FileLock", lambda *_, **__: nullcontext(fill(cache)))
    assert data.ensure_dataset() == f"the cache {cache}"


def test_fresh_machine(tmp_path):
    """The command fetches; then, off line, Keras loads from the same folder."""
    real = data.ensure_dataset().removeprefix("the cache ")
    code = "import runpy; print(runpy.run_module('fmnist_utils.data', run_name='__main__')['load_data']()[0][0].shape)"
    there = os.environ | {"HOME": str(tmp_path), "KERAS_HOME": "~/not/yet", "FMNIST_DATA_DIR": real}
    there |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, encoding="utf-8")
    assert f"Source: {real}\n(60000, 28, 28)\n" in done.stdout, done.stderr
    assert {path.name for path in (tmp_path / "not" / "yet" / data.SUBFOLDER).iterdir()} >= set(NAMES)
