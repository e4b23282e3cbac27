"""The data set's four files: their sources, what is said when none serves, and that Keras finds them afterwards."""

import errno
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fmnist_utils import _download, data

NAMES = tuple(_download.SHA256)
FILES = {name: name.encode() * 40 for name in NAMES}  # small stand-ins: every test but the last reads these
KERAS = Path(".keras", "datasets", "fashion-mnist")  # under a home folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that is not there yet, the stand-ins' hashes, and every other source closed."""
    monkeypatch.setattr(_download, "SHA256", {name: hashlib.sha256(FILES[name]).hexdigest() for name in NAMES})
    monkeypatch.setattr(_download, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(_download, "URLS", ())
    for name, value in {"FMNIST_DATA_DIR": tmp_path / "own", "HOME": tmp_path, "PATH": tmp_path / "bin"}.items():
        monkeypatch.setenv(name, str(value))  # so there is no apt-get
    monkeypatch.delenv("KERAS_HOME", raising=False)
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
    target = f'"$3{_download.DEBIAN_FOLDER}"'
    scripts = {
        "apt-get": f'echo "$*" >> {tmp_path}/calls; case "$*" in *update) ;; *Dir::State::Lists=*) '
        f"{download_with_own_lists};; *) {download};; esac",
        "dpkg-deb": f'test -f "$2" && mkdir -p {target} && cp {tmp_path}/package/* {target}',
    }
    fill(tmp_path / "bin", {name: f"#!/bin/sh\nPATH=/usr/bin:/bin\n{scripts[name]}\n".encode() for name in scripts})
    for name in scripts:
        (tmp_path / "bin" / name).chmod(0o755)


# ---------------------------------------------------------------------------------------------- sources


def test_sources_true_cache(cache, monkeypatch):
    """Nothing is touched, which is why a folder that cannot be written serves too."""
    fill(cache)
    monkeypatch.setattr(_download, "_sources", None)
    monkeypatch.setattr(_download, "FileLock", None)
    assert data.ensure_dataset(cache) == f"the cache {cache}"
    assert {path.name for path in cache.iterdir()} == set(NAMES)


@pytest.mark.parametrize("closed", range(6))
def test_sources_order(closed, cache, tmp_path, monkeypatch, serve):
    """The first one that has the true files serves; a Keras home that Keras passed over is one of them."""
    urls = [serve("true" if closed <= place else "not found") for place in (3, 4)]
    monkeypatch.setattr(_download, "URLS", urls)
    for folder in ("own", KERAS, "debian")[closed:]:
        fill(tmp_path / folder)
    make_apt(tmp_path)
    names = ["FMNIST_DATA_DIR", f"the folder {tmp_path / KERAS}", "the Debian package's folder", *urls]
    assert data.ensure_dataset(cache).startswith([*names, "the Debian package dataset-fashion-mnist"][closed])
    assert content(cache) == FILES


def test_sources_none_serves(cache, monkeypatch, serve):
    """The error names every source, its reason, and what to do."""
    monkeypatch.setattr(_download, "URLS", (serve("login page"), serve("not found")))
    lines = [line.strip() for line in refusal(cache).splitlines()]
    wanted = [f"- the cache {cache}: {name} is not there" for name in NAMES] + [
        f"- FMNIST_DATA_DIR ({os.environ['FMNIST_DATA_DIR']}): no such folder",
        f"- the Debian package's folder {_download.DEBIAN_FOLDER}: no such folder",
        f"- {_download.URLS[0]}: {NAMES[0]} is damaged",
        f"- {_download.URLS[1]}: 404",
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
def test_cache_damaged_file(damage, name, cache, tmp_path):
    """It is named, and repaired as soon as a source serves."""
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


@pytest.mark.parametrize("source", ["own", KERAS, "debian", "network", "apt"])
def test_source_one_wrong_file(source, cache, tmp_path, monkeypatch, serve):
    """The cache stays as it is."""
    before = FILES | {NAMES[1]: b"damaged"}
    fill(cache, before)
    wrong = FILES | {NAMES[3]: b"other data"}
    if source == "network":
        monkeypatch.setattr(_download, "URLS", (serve(lambda handler, name: send(handler, wrong[name])),))
    elif source == "apt":
        make_apt(tmp_path, wrong)
    else:
        fill(tmp_path / source, wrong)
    assert f"{NAMES[3]} is damaged or cut short (10 bytes" in refusal(cache)
    assert content(cache) == before


# ---------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("login page", "wrong SHA-256"), ("not found", "404"), ("cut short", "IncompleteRead|cut short"),
     ("silent", "timed out"), ("stalled", "timed out")],
)  # fmt: skip
def test_download_bad_answer(answer, reason, cache, monkeypatch, serve):
    """The reason is told, and the next address is tried."""
    monkeypatch.setattr(_download, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(_download, "URLS", (serve(answer),))
    assert re.search(f"{_download.URLS[0]}: .*({reason})", refusal(cache))
    assert content(cache) == {}
    monkeypatch.setattr(_download, "STALL_SECONDS", 10)  # "true" may be slow on a busy machine
    bad = serve(answer) if reason != "timed out" else serve("not found")
    monkeypatch.setattr(_download, "URLS", (bad, serve("true")))
    assert data.ensure_dataset(cache) == _download.URLS[1]
    assert content(cache) == FILES


def test_download_length_no_number(cache, monkeypatch, serve):
    monkeypatch.setattr(_download, "URLS", (serve("no number"),))
    assert data.ensure_dataset(cache) == _download.URLS[0]


def test_download_refused_connection(cache, monkeypatch, serve):
    with socket.socket() as taken:  # a port that is taken but does not listen
        taken.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        monkeypatch.setattr(_download, "URLS", (refusing,))
        assert re.search(f"{refusing}: .*Connection refused", refusal(cache))
        monkeypatch.setattr(_download, "URLS", (refusing, serve("true")))
        assert data.ensure_dataset(cache) == _download.URLS[1]


def test_download_dribbling_server(cache, monkeypatch, serve):
    """It is left when the time is up, though it never stalls."""
    sent = []

    def dribbles(handler, _):
        send(handler, b"", 200)
        while len(sent) < 200 and not handler.server.over.wait(0.01):
            handler.wfile.write(b".")
            sent.append(1)

    monkeypatch.setattr(_download, "TOTAL_SECONDS", 0.2)
    monkeypatch.setattr(_download, "URLS", (serve(dribbles),))
    assert "too slow: not done after 0.2 s" in refusal(cache)
    assert len(sent) < 200
    assert content(cache) == {}


@pytest.mark.parametrize(
    ("first", "calls"),
    [(GIVES, ["download"]), (FAILS, ["download", "update", "download"])],
    ids=["with lists", "without lists"],
)
def test_debian_package_unpacked(first, calls, cache, tmp_path):
    """A bare machine has no package lists: they are fetched into a folder of our own."""
    make_apt(tmp_path, download=first)
    assert data.ensure_dataset(cache) == f"the Debian package {_download.DEBIAN_PACKAGE}"
    assert content(cache) == FILES
    lines = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert [line.removesuffix(f" {_download.DEBIAN_PACKAGE}").split()[-1] for line in lines] == calls
    assert [f"Dir::State::Lists={cache}" in line for line in lines] == [False, True, True][: len(calls)]


@pytest.mark.parametrize(("download", "reason"), [(FAILS, "E: Unable to locate package"), ("true", "")])
def test_debian_package_not_delivered(download, reason, cache, tmp_path):
    make_apt(tmp_path, download=download, download_with_own_lists=download)
    assert f"the Debian package {_download.DEBIAN_PACKAGE}: {reason}" in refusal(cache)


# ---------------------------------------------------------------------------------------------- the cache


def test_cache_two_processes_at_once(cache, tmp_path, monkeypatch):
    """One fetches, the other waits."""
    fill(tmp_path / "own")
    both, lock = threading.Barrier(2, timeout=60), _download.FileLock
    monkeypatch.setattr(_download, "FileLock", lambda *args, **kwargs: both.wait() >= 0 and lock(*args, **kwargs))
    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(data.ensure_dataset, [cache, cache]))
    assert first.startswith("FMNIST_DATA_DIR")
    assert second == f"the cache {cache}, filled by another process meanwhile"
    assert content(cache) == FILES


def test_cache_locked(cache, tmp_path, monkeypatch, hold_lock):
    """A living process holds the lock, a killed one does not."""
    fill(tmp_path / "own")
    cache.mkdir()
    holder = hold_lock(cache / ".lock")
    with monkeypatch.context() as patch:
        patch.setattr(_download, "TOTAL_SECONDS", 0.05)
        assert f"another process has held {cache / '.lock'}" in refusal(cache)
    holder.kill()
    holder.wait()
    assert data.ensure_dataset(cache).startswith("FMNIST_DATA_DIR")


def test_cache_unreadable(cache, monkeypatch):
    fill(cache)
    monkeypatch.setattr("hashlib.file_digest", failing(PermissionError(errno.EACCES, "Permission denied")))
    assert "Permission denied" in refusal(cache)


@pytest.mark.parametrize(
    ("call", "error"),
    [("os.replace", PermissionError(errno.EACCES, "Permission denied")),
     ("pathlib.Path.mkdir", PermissionError(errno.EACCES, "Permission denied")),
     ("os.replace", OSError(errno.ENOSPC, "No space left on device")),
     ("shutil.copyfile", OSError(errno.ENOSPC, "No space left on device"))],
    ids=["replace denied", "folder denied", "full at replace", "full while copying"],
)  # fmt: skip
def test_cache_unwritable(call, error, cache, tmp_path, monkeypatch):
    before = {name: FILES[name] for name in NAMES[:3]}
    fill(cache, before)
    fill(tmp_path / "own")
    with monkeypatch.context() as patch:
        patch.setattr(call, failing(error))
        report = refusal(cache)
    assert report.startswith(f"cannot write the data set into {cache}: {error}")
    assert "KERAS_HOME" in report
    assert content(cache) == before


def test_cache_leftover_of_a_killed_process(cache, tmp_path):
    left = cache / ".fetch-dead" / "0"
    fill(left, {"half.gz": b"half"})
    fill(tmp_path / "own")
    data.ensure_dataset(cache)
    assert content(cache) == FILES


def test_command(cache, tmp_path, monkeypatch, capsys):
    """It prints the source, or ends with the reason."""
    monkeypatch.setattr(data, "cache_folder", lambda: cache)
    monkeypatch.setattr(_download, "cache_folder", lambda: cache)
    with pytest.raises(SystemExit, match="could not be had"):
        data.main()
    fill(tmp_path / "own")
    data.main()
    assert f"Source: FMNIST_DATA_DIR ({tmp_path / 'own'})" in capsys.readouterr().out


LOAD = "from fmnist_utils import data; print(data.load_data()[0][0].shape)"


@pytest.mark.parametrize("keras_home", [None, "~/not/there/yet"])
def test_fresh_machine_fetch_then_load(keras_home, tmp_path):
    """One process fetches as `make data` does; a second one, off line and without any source, loads as 01 does."""
    there = {name: value for name, value in os.environ.items() if name not in ("KERAS_HOME", "FMNIST_DATA_DIR")}
    there |= {"HOME": str(tmp_path), **({"KERAS_HOME": keras_home} if keras_home else {})}
    there |= {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}

    def run(*words, **more):
        words = [sys.executable, "-m", "fmnist_utils.data"] if not words else [sys.executable, "-c", *words]
        return subprocess.run(words, env={**there, **more}, capture_output=True, encoding="utf-8", cwd=tmp_path)

    fetched = run(FMNIST_DATA_DIR=str(data.cache_folder()))
    assert fetched.returncode == 0 and "Source: FMNIST_DATA_DIR" in fetched.stdout, fetched.stderr
    loaded = run(LOAD, PATH=str(tmp_path))  # so there is no apt-get
    assert (loaded.stdout, loaded.stderr) == ("(60000, 28, 28)\n", "")
    home = Path(keras_home.replace("~", str(tmp_path))) if keras_home else tmp_path / ".keras"
    assert {path.name for path in (home / "datasets" / "fashion-mnist").iterdir()} >= set(NAMES)
