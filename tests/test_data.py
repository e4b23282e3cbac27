"""The data set: its form, its sources, and what is said when none of them serves."""

import ast
import contextlib
import errno
import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fmnist_utils import _tensorflow, data

NAMES = tuple(data.SHA256)
FILES = {name: name.encode() * 40 for name in NAMES}  # small stand-ins: every test but the last reads these
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that is not there yet, the stand-ins' hashes, and every other source closed."""
    monkeypatch.setattr(data, "SHA256", {name: hashlib.sha256(FILES[name]).hexdigest() for name in NAMES})
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(data, "URLS", ())
    monkeypatch.setenv("FMNIST_DATA_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # so there is no apt-get
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def send(handler, body, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", length or len(body))
    handler.end_headers()
    handler.wfile.write(body)


ANSWERS = {  # of a server, to (the request's handler, a file's name)
    "true": lambda handler, name: send(handler, FILES[name]),
    "login page": lambda handler, name: send(handler, b"<html>Log in to this network first</html>"),
    "not found": lambda handler, name: handler.send_error(404),
    "cut short": lambda handler, name: send(handler, FILES[name][:9], len(FILES[name])),
    "no number": lambda handler, name: send(handler, FILES[name], "unknown"),
    "silent": lambda handler, name: handler.server.over.wait(60),
    "stalled": lambda handler, name: (ANSWERS["cut short"](handler, name), handler.server.over.wait(60)),
}


@pytest.fixture
def serve():
    """A function that starts a web server on this machine, which gives one of ANSWERS; it returns the address."""
    servers, over = [], threading.Event()

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                ANSWERS.get(answer, answer)(self, Path(self.path).name)

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        servers[-1].over = over
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield start
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def refusing():
    """The address of a port that is taken but does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


def fill(folder, files=FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)


def content(folder):
    """Everything in `folder` but the lock file, so that a forgotten temporary file shows too."""
    return {path.name: path.is_file() and path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def refusal(cache):
    with pytest.raises(data.DatasetUnavailable) as caught:
        data.ensure_dataset(cache)
    return str(caught.value)


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


GIVES, FAILS = "touch dataset-fashion-mnist_0_all.deb", "echo 'W: odd\nE: Unable to locate package' >&2; exit 100"


def make_apt(tmp_path, files=FILES, download=GIVES, download_with_own_lists=GIVES):
    """Put an apt-get, which notes how it was called, and a dpkg-deb on the PATH; the package holds `files`."""
    fill(tmp_path / "package", files)
    target = f'"$3{data.DEBIAN_FOLDER}"'
    scripts = {
        "apt-get": f'echo "$*" >> {tmp_path}/calls; case "$*" in *update) ;; *Dir::State::Lists=*) '
        f"{download_with_own_lists};; *) {download};; esac",
        "dpkg-deb": f'test -f "$2" && mkdir -p {target} && cp {tmp_path}/package/* {target}',
    }
    fill(tmp_path / "bin", {name: f"#!/bin/sh\nPATH=/usr/bin:/bin\n{scripts[name]}\n".encode() for name in scripts})
    for name in scripts:
        (tmp_path / "bin" / name).chmod(0o755)


def test_scale_maps_bytes_to_the_unit_interval_and_adds_the_channel():
    x = np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8)
    scaled = data.scale(x)
    assert (scaled.shape, scaled.dtype) == ((2, 28, 28, 1), np.float32)
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_array_equal(np.round(scaled[..., 0] * 255), x)


@pytest.mark.parametrize(
    "x",
    [data.scale(np.zeros((2, 28, 28), np.uint8)), np.zeros((2, 28, 28)), np.zeros((2, 28, 28), np.int64),
     np.zeros((28, 28), np.uint8), np.zeros((2, 28, 28, 1), np.uint8), np.zeros((2, 32, 32), np.uint8)],
    ids=["scaled", "float", "int64", "one image", "with channel", "other size"],
)  # fmt: skip
def test_scale_refuses_what_is_not_as_loaded(x):
    with pytest.raises(ValueError, match=re.escape(f"got {x.shape} {x.dtype}")):
        data.scale(x)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_one_hot_has_its_one_at_the_class_number(dtype):
    rows = data.one_hot(np.array([3, 0, 9], dtype))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.eye(10)[[3, 0, 9]])


@pytest.mark.parametrize(
    "y",
    [np.eye(10), np.eye(10, dtype=np.uint8), np.array([1.0, 2.0]), np.array([10]), np.array([-1]), np.array([True])],
    ids=["one-hot", "one-hot bytes", "float", "ten", "negative", "bool"],
)
def test_one_hot_refuses_what_is_not_a_class_number(y):
    with pytest.raises(ValueError, match="class numbers"):
        data.one_hot(y)


def test_a_split_is_disjoint_covers_all_and_keeps_each_classs_share():
    train, valid = data.stratified_split(LABELS, fraction=0.2)
    assert sorted([*train, *valid]) == list(range(len(LABELS)))
    assert np.bincount(LABELS[train]).tolist() == [80] * 10
    assert np.bincount(LABELS[valid]).tolist() == [20] * 10


def test_a_split_is_drawn_by_its_seed_and_is_not_the_last_fifth():
    valid = data.stratified_split(LABELS, seed=1)[1]
    np.testing.assert_array_equal(valid, data.stratified_split(LABELS, seed=1)[1])
    assert valid.tolist() != data.stratified_split(LABELS, seed=2)[1].tolist()
    assert valid.min() < 800


@pytest.mark.parametrize("train_size", [10, 250, 790, 800])
def test_train_size_is_kept_exactly_and_leaves_the_validation_part_alone(train_size):
    train_all, valid_all = data.stratified_split(LABELS)
    train, valid = data.stratified_split(LABELS, train_size=train_size)
    np.testing.assert_array_equal(valid, valid_all)
    assert len(set(train)) == train_size and set(train) <= set(train_all)
    assert np.ptp(np.bincount(LABELS[train], minlength=10)) <= 1


@pytest.mark.parametrize(
    "train_size",
    [801, 9, -1, 795],
)
def test_a_train_size_that_cannot_be_had_is_an_error(train_size):
    with pytest.raises(ValueError, match=f"{train_size}"):
        data.stratified_split(LABELS, train_size=train_size)


def test_a_true_cache_is_used_without_touching_anything_else(cache, monkeypatch):
    fill(cache)
    monkeypatch.setattr(data, "_sources", None)
    monkeypatch.setattr(data, "FileLock", None)
    assert data.ensure_dataset(cache) == f"the cache {cache}"
    assert {path.name for path in cache.iterdir()} == set(NAMES)


@pytest.mark.parametrize("closed", range(5))
def test_the_first_source_that_has_the_true_files_serves(closed, cache, tmp_path, monkeypatch, serve):
    urls = [serve("true" if closed <= place else "not found") for place in (2, 3)]
    monkeypatch.setattr(data, "URLS", urls)
    for folder in ("own", "debian")[closed:]:
        fill(tmp_path / folder)
    make_apt(tmp_path)
    names = ["FMNIST_DATA_DIR", "the Debian package's folder", *urls, "the Debian package dataset-fashion-mnist"]
    assert data.ensure_dataset(cache).startswith(names[closed])
    assert content(cache) == FILES


def test_when_nothing_serves_the_error_names_every_source_its_reason_and_what_to_do(cache, monkeypatch, serve):
    monkeypatch.setattr(data, "URLS", (serve("login page"), serve("not found")))
    lines = [line.strip() for line in refusal(cache).splitlines()]
    wanted = [f"- the cache {cache}: {name} is not there" for name in NAMES] + [
        f"- FMNIST_DATA_DIR ({os.environ['FMNIST_DATA_DIR']}): no such folder",
        f"- the Debian package's folder {data.DEBIAN_FOLDER}: no such folder",
        f"- {data.URLS[0]}: {NAMES[0]} is damaged",
        f"- {data.URLS[1]}: 404",
        "- the Debian package dataset-fashion-mnist: this is not a Debian or Ubuntu system",
    ]
    assert len(lines) == len(wanted) + 2
    assert all(line.startswith(start) for line, start in zip(lines[1:], wanted, strict=False)), lines
    assert "set FMNIST_DATA_DIR" in lines[-1]
    assert content(cache) == {}


DAMAGES = {f"cut at {tenth}0 %": lambda whole, tenth=tenth: whole[: len(whole) * tenth // 10] for tenth in range(10)}
DAMAGES["one bit flipped"] = lambda whole: whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]
DAMAGES["one byte too long"] = lambda whole: whole + b"\0"
DAMAGES["missing"] = None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_and_repaired_as_soon_as_a_source_serves(damage, name, cache, tmp_path):
    before = dict(FILES)
    whole = before.pop(name)
    if damage:
        before[name] = damage(whole)
    fill(cache, before)
    report = refusal(cache)
    assert f"{name} is {'damaged or cut short' if damage else 'not there'}" in report
    assert not [other for other in NAMES if other != name and other in report]
    assert content(cache) == before
    fill(tmp_path / "own")
    assert data.ensure_dataset(cache).startswith("FMNIST_DATA_DIR")
    assert content(cache) == FILES


@pytest.mark.parametrize("source", ["own", "debian", "network", "apt"])
def test_a_source_with_one_wrong_file_changes_nothing_in_the_cache(source, cache, tmp_path, monkeypatch, serve):
    before = FILES | {NAMES[1]: b"damaged"}
    fill(cache, before)
    wrong = FILES | {NAMES[3]: b"other data"}
    if source == "network":
        monkeypatch.setattr(data, "URLS", (serve(lambda handler, name: send(handler, wrong[name])),))
    elif source == "apt":
        make_apt(tmp_path, wrong)
    else:
        fill(tmp_path / source, wrong)
    assert f"{NAMES[3]} is damaged or cut short (10 bytes" in refusal(cache)
    assert content(cache) == before


def test_a_cache_that_cannot_be_read_is_an_error_of_the_data_set(cache, monkeypatch):
    fill(cache)
    monkeypatch.setattr("hashlib.file_digest", failing(PermissionError(errno.EACCES, "Permission denied")))
    assert "Permission denied" in refusal(cache)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("login page", "wrong SHA-256"), ("not found", "404"), ("cut short", "IncompleteRead|cut short"),
     ("silent", "timed out"), ("stalled", "timed out")],
)  # fmt: skip
def test_after_a_bad_answer_the_next_address_is_tried_and_the_reason_told(answer, reason, cache, monkeypatch, serve):
    monkeypatch.setattr(data, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(data, "URLS", (serve(answer),))
    assert re.search(f"{data.URLS[0]}: .*({reason})", refusal(cache))
    assert content(cache) == {}
    monkeypatch.setattr(data, "URLS", (serve(answer), serve("true")))
    assert data.ensure_dataset(cache) == data.URLS[1]
    assert content(cache) == FILES


def test_a_length_that_is_no_number_does_no_harm(cache, monkeypatch, serve):
    monkeypatch.setattr(data, "URLS", (serve("no number"),))
    assert data.ensure_dataset(cache) == data.URLS[0]


def test_after_a_refused_connection_the_next_address_is_tried(cache, monkeypatch, serve, refusing):
    monkeypatch.setattr(data, "URLS", (refusing, serve("true")))
    assert data.ensure_dataset(cache) == data.URLS[1]


def test_a_refused_connection_is_told_as_such(cache, monkeypatch, refusing):
    monkeypatch.setattr(data, "URLS", (refusing,))
    assert re.search(f"{refusing}: .*Connection refused", refusal(cache))


def test_a_server_that_dribbles_is_left_when_the_time_is_up(cache, monkeypatch, serve):
    sent = []

    def dribbles(handler, _):
        send(handler, b"", 200)
        while len(sent) < 200 and not handler.server.over.wait(0.01):
            handler.wfile.write(b".")
            sent.append(1)

    monkeypatch.setattr(data, "TOTAL_SECONDS", 0.2)
    monkeypatch.setattr(data, "URLS", (serve(dribbles),))
    assert "too slow: not done after 0.2 s" in refusal(cache)
    assert len(sent) < 200
    assert content(cache) == {}


def test_of_two_that_come_at_once_one_fetches_and_the_other_waits(cache, tmp_path, monkeypatch):
    fill(tmp_path / "own")
    both, lock = threading.Barrier(2, timeout=60), data.FileLock
    monkeypatch.setattr(data, "FileLock", lambda *args, **kwargs: both.wait() >= 0 and lock(*args, **kwargs))
    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(data.ensure_dataset, [cache, cache]))
    assert first.startswith("FMNIST_DATA_DIR")
    assert second == f"the cache {cache}, filled by another process meanwhile"
    assert content(cache) == FILES


def test_a_living_process_holds_the_lock_and_a_killed_one_does_not(cache, tmp_path, monkeypatch):
    fill(tmp_path / "own")
    cache.mkdir()
    hold = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]):\n    print('held', flush=True)\n    input()"
    command = [sys.executable, "-c", hold, cache / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with monkeypatch.context() as patch:
            patch.setattr(data, "TOTAL_SECONDS", 0.05)
            assert f"another process has held {cache / '.lock'}" in refusal(cache)
        holder.kill()
    assert data.ensure_dataset(cache).startswith("FMNIST_DATA_DIR")


@pytest.mark.parametrize(
    ("call", "error"),
    [("os.replace", PermissionError(errno.EACCES, "Permission denied")),
     ("pathlib.Path.mkdir", PermissionError(errno.EACCES, "Permission denied")),
     ("os.replace", OSError(errno.ENOSPC, "No space left on device")),
     ("shutil.copyfile", OSError(errno.ENOSPC, "No space left on device"))],
    ids=["replace denied", "folder denied", "full at replace", "full while copying"],
)  # fmt: skip
def test_a_cache_that_cannot_be_written_is_named_with_what_to_do(call, error, cache, tmp_path, monkeypatch):
    before = {name: FILES[name] for name in NAMES[:3]}
    fill(cache, before)
    fill(tmp_path / "own")
    with monkeypatch.context() as patch:
        patch.setattr(call, failing(error))
        report = refusal(cache)
    assert report.startswith(f"cannot write the data set into {cache}: {error}")
    assert "KERAS_HOME" in report
    assert content(cache) == before


@pytest.mark.parametrize(
    ("first", "calls"),
    [(GIVES, ["download"]), (FAILS, ["download", "update", "download"])],
    ids=["with lists", "without lists"],
)
def test_the_debian_package_is_unpacked_with_or_without_package_lists(first, calls, cache, tmp_path):
    make_apt(tmp_path, download=first)
    assert data.ensure_dataset(cache) == f"the Debian package {data.DEBIAN_PACKAGE}"
    assert content(cache) == FILES
    lines = (tmp_path / "calls").read_text().splitlines()
    assert [line.removesuffix(f" {data.DEBIAN_PACKAGE}").split()[-1] for line in lines] == calls
    assert [f"Dir::State::Lists={cache}" in line for line in lines] == [False, True, True][: len(calls)]


def test_what_apt_says_is_the_reason(cache, tmp_path):
    make_apt(tmp_path, download=FAILS, download_with_own_lists=FAILS)
    assert f"the Debian package {data.DEBIAN_PACKAGE}: E: Unable to locate package" in refusal(cache)


def test_an_apt_that_delivers_nothing_is_a_source_that_failed(cache, tmp_path):
    make_apt(tmp_path, download="true")
    assert "the Debian package dataset-fashion-mnist: " in refusal(cache)


@pytest.mark.parametrize(
    ("keras_home", "closed", "wanted"),
    [("{0}/chosen", (), "{0}/chosen"), ("", (), "{0}/.keras"), ("{0}/chosen", ("chosen",), "/tmp/.keras"),
     ("", (".keras",), "/tmp/.keras"),
     ("", (".",), "/tmp/.keras")],
)  # fmt: skip
def test_the_cache_is_where_keras_looks_for_it(keras_home, closed, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", keras_home.format(tmp_path))
    monkeypatch.setattr("os.access", lambda path, _: Path(path) not in [tmp_path / name for name in closed])
    assert data.cache_folder() == Path(wanted.format(tmp_path)) / "datasets" / "fashion-mnist"


def test_the_command_prints_the_source_or_ends_with_the_reason(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "cache_folder", lambda: cache)
    with pytest.raises(SystemExit, match="could not be had"):
        data.main()
    fill(tmp_path / "own")
    data.main()
    assert f"Source: FMNIST_DATA_DIR ({tmp_path / 'own'})" in capsys.readouterr().out


def test_who_only_fetches_does_not_wait_for_tensorflow():
    code = "import sys, fmnist_utils.data; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_import_of_tensorflow_and_its_first_use_write_nothing():
    code = "from fmnist_utils._tensorflow import tf; tf.cast([0.1], tf.bfloat16).numpy()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's switch is for Intel and AMD")
@pytest.mark.parametrize(("wanted", "on"), [(None, True), ("0", False)])
def test_convolutions_use_onednn_unless_the_user_says_no(wanted, on):
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {"TF_ENABLE_ONEDNN_OPTS": wanted} if wanted else {}
    code = (
        "import fmnist_utils._tensorflow; from tensorflow.python.util import _pywrap_util_port; "
        "print(_pywrap_util_port.IsMklEnabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.strip() == str(on), done.stderr


@pytest.mark.parametrize(("threads", "intra", "inter"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (8, 4, 2)])
def test_two_operations_share_the_threads(threads, intra, inter):
    settings = {"TF_NUM_INTRAOP_THREADS": str(intra), "TF_NUM_INTEROP_THREADS": str(inter)}
    assert _tensorflow.thread_settings(threads) == settings


@pytest.mark.parametrize("wanted", [{}, {"TF_NUM_INTRAOP_THREADS": "3"}, {"TF_NUM_INTEROP_THREADS": "5"}])
def test_the_threads_are_set_for_the_cores_unless_the_user_has_set_them(wanted):
    names = list(_tensorflow.thread_settings(1))
    environment = {name: value for name, value in os.environ.items() if name not in names} | wanted
    code = (
        "from fmnist_utils import _tensorflow; import os; "
        "print({name: os.environ[name] for name in _tensorflow.thread_settings(1)}, "
        "_tensorflow.thread_settings(_tensorflow._cores()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    used, of_the_cores = ast.literal_eval(done.stdout.strip().replace("} {", "}, {"))
    assert used == of_the_cores | wanted


@pytest.mark.parametrize("fails", [False, True])
def test_what_goes_to_stderr_is_shown_only_when_the_body_raises(fails, capfd):
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), _tensorflow.capture_stderr():
        os.write(2, b"a notice\n")
        _ = 1 / (not fails)
    os.write(2, b"a later word\n")
    assert capfd.readouterr().err == "a notice\n" * fails + "a later word\n"


def test_the_class_names_are_those_that_zalando_gave_the_numbers():
    names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    assert ",".join(data.CLASS_NAMES) == names


def test_the_real_data_has_its_known_form():
    (x_train, y_train), (x_test, y_test) = data.load_data()
    for x, y, each in ((x_train, y_train, 6000), (x_test, y_test, 1000)):
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((10 * each, 28, 28), np.uint8, (10 * each,), np.uint8)
        assert (x.min(), x.max()) == (0, 255)
        assert np.bincount(y).tolist() == [each] * 10


def test_what_a_killed_process_left_in_the_cache_is_cleared_away(cache, tmp_path, monkeypatch):
    left = cache / ".fetch-dead" / "0"
    left.mkdir(parents=True)
    (left / "half.gz").write_bytes(b"half")
    with contextlib.suppress(data.DatasetUnavailable):
        data.ensure_dataset(cache)
    assert not list(cache.glob(".fetch-*"))
