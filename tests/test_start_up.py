"""TensorFlow comes up quietly, with the project's settings, unless the user has set them; other settings are named."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest

from fmnist_utils import _environment, _tensorflow

DEFAULT = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
DEFAULT |= _environment.thread_settings(_environment.cores())
PROBE = f"""
from fmnist_utils._tensorflow import os, tf
print(tf.keras.layers.Conv2D(4, 3)(tf.zeros((1, 28, 28, 1))).dtype.name, *(os.environ[n] for n in {list(DEFAULT)}))
"""


def start(tmp_path, wanted):
    """Start it in a process whose user has a keras.json that does not fit; return what it wrote."""
    unfit = '{"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}'
    (tmp_path / "keras.json").write_text(unfit, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_"))}
    there = clean | {"KERAS_HOME": str(tmp_path)} | wanted
    return subprocess.run([sys.executable, "-c", PROBE], env=there, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("wanted", [{"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "3"}, {}])
def test_settings(wanted, tmp_path):
    done = start(tmp_path, {"KERAS_BACKEND": "", "TF_NUM_INTRAOP_THREADS": "", **wanted})  # empty is as good as none
    assert (done.stdout, done.stderr) == (f"float32 {' '.join({**DEFAULT, **wanted}[name] for name in DEFAULT)}\n", "")


@pytest.mark.parametrize(("name", "value"), [("KERAS_BACKEND", "torch"), ("TF_USE_LEGACY_KERAS", "1")])
def test_refused_setting(name, value, tmp_path):
    last = start(tmp_path, {name: value}).stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {name} is set to '{value}'; this project needs it unset or ")


@pytest.mark.parametrize(("threads", "settings"), [(1, ["1", "1"]), (2, ["1", "2"]), (3, ["1", "2"]), (8, ["4", "2"])])
def test_threads_are_shared_by_two_operations(threads, settings):
    assert list(_environment.thread_settings(threads).values()) == settings


@pytest.mark.parametrize("fails", [False, True])
def test_captured_stderr_is_shown_when_the_body_raises(fails, capfd):
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), _tensorflow.capture_stderr():
        os.write(2, b"a notice\n")
        _ = 1 / (not fails)
    assert capfd.readouterr().err == "a notice\n" * fails
