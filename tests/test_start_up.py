"""TensorFlow comes up quietly, with the project's settings, unless the user has set them; other settings are named."""

import json
import os
import platform
import subprocess
import sys
from contextlib import nullcontext

import pytest

from fmnist_utils import _environment, _tensorflow

INTEL = platform.machine() in ("x86_64", "AMD64")  # oneDNN's switch is for these
PROBE = """
from fmnist_utils._tensorflow import capture_stderr, tf
tf.cast([0.1], tf.bfloat16).numpy()
import json, os
from tensorflow.python.util import _pywrap_util_port
from fmnist_utils._environment import cores, thread_settings
from fmnist_utils.model import build_model
used = {name: os.environ[name] for name in thread_settings(1)}
model = build_model(filters=[4], convs_per_block=[1])
with capture_stderr():  # TensorFlow 2.17 writes a notice when it is asked
    onednn = _pywrap_util_port.IsMklEnabled()
print(json.dumps({
    "onednn": onednn, "threads": used, "of the cores": thread_settings(cores()),
    "output": model(tf.zeros((1, 28, 28, 1))).dtype.name,
}))
"""
NAMES = ("TF_ENABLE_ONEDNN_OPTS", "KERAS_BACKEND", "TF_USE_LEGACY_KERAS", *_environment.thread_settings(1))


def start(tmp_path, code=PROBE, **wanted):
    """Run code in a process whose user has a keras.json that does not fit; return what it wrote."""
    settings = {"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras.json").write_text(json.dumps(settings), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"KERAS_HOME": str(tmp_path), **wanted}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")


def test_start_defaults(tmp_path):
    """Not a word, oneDNN where there is one, threads for the cores, and 32-bit numbers whatever keras.json says."""
    done = start(tmp_path)
    assert done.stderr == "" and done.stdout.count("\n") == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["threads"] == found["of the cores"]
    assert found["onednn"] or not INTEL
    assert found["output"] == "float32"


def test_start_empty_settings(tmp_path):
    """An empty variable is as good as none."""
    empty = dict.fromkeys(("KERAS_BACKEND", "TF_USE_LEGACY_KERAS", *_environment.thread_settings(1)), "")
    found = json.loads(start(tmp_path, **empty).stdout)
    assert found["threads"] == found["of the cores"]


def test_start_user_settings(tmp_path):
    wanted = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTRAOP_THREADS": "3"}
    done = start(tmp_path, **wanted)
    found = json.loads(done.stdout)
    assert found["threads"] == found["of the cores"] | {"TF_NUM_INTRAOP_THREADS": "3"}
    assert not (found["onednn"] and INTEL)


@pytest.mark.parametrize(
    "setting",
    [{"KERAS_BACKEND": "torch"}, {"TF_USE_LEGACY_KERAS": "1"}, {"TF_NUM_INTRAOP_THREADS": "auto"}],
    ids=str,
)
def test_start_refused_setting(setting, tmp_path):
    """One line that names the setting, before TensorFlow is imported."""
    ((name, value),) = setting.items()
    last = start(tmp_path, "import fmnist_utils._tensorflow", **setting).stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {name} is set to '{value}'; this project needs it unset")


@pytest.mark.parametrize(("threads", "intra", "inter"), [(1, 1, 1), (2, 1, 2), (3, 1, 2), (8, 4, 2)])
def test_threads_shared_by_two_operations(threads, intra, inter):
    settings = {"TF_NUM_INTRAOP_THREADS": str(intra), "TF_NUM_INTEROP_THREADS": str(inter)}
    assert _environment.thread_settings(threads) == settings


@pytest.mark.parametrize("fails", [False, True])
def test_captured_stderr(fails, capfd):
    """It is shown only when the body raises."""
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), _tensorflow.capture_stderr():
        os.write(2, b"a notice\n")
        _ = 1 / (not fails)
    os.write(2, b"a later word\n")
    assert capfd.readouterr().err == "a notice\n" * fails + "a later word\n"
