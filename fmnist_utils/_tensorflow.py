"""TensorFlow, imported without its start-up log, and with its fast convolutions on every Intel and AMD processor.

TensorFlow's C++ side writes notices about CUDA and oneDNN to file descriptor 2 before any Python setting
can reach it, so TF_CPP_MIN_LOG_LEVEL does not help. In a notebook they would stand as a red block above the
first result, and strict notebook tests would fail on them.

TensorFlow computes convolutions by Intel's oneDNN where the processor has instructions made for networks (AVX-512 VNNI
and its kin), elsewhere by Eigen, which took 3.4 times as long for a step of our network on a processor with AVX2 alone
(benchmarks/README.md). So oneDNN is asked for before the import, unless TF_ENABLE_ONEDNN_OPTS is set already.

Training computes two halves of a batch side by side (`_training_copy`), which wants two operations at a time and the
cores shared out between them. TensorFlow reads that at its start, so it is set here, unless it is set already.
"""

import os
import sys
import tempfile
from contextlib import contextmanager

from fmnist_utils._environment import cores, thread_settings


@contextmanager
def capture_stderr():
    """Send file descriptor 2 to a temporary file; when the body raises, show what was written there."""
    sys.stderr.flush()
    keep = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(keep, 2)
            os.close(keep)
            if failed:
                captured.seek(0)
                sys.stderr.write(captured.read().decode(errors="replace"))


for _name, _wanted in {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}.items():
    if os.environ.get(_name, _wanted).lower() not in (_wanted, "", "false"):
        raise ImportError(f"{_name} is set to {os.environ[_name]!r}; this project needs it unset or {_wanted!r}")
    os.environ[_name] = _wanted  # or a user's keras.json decides
for _name in thread_settings(1):
    if not os.environ.get(_name, "0").strip():
        del os.environ[_name]
    elif not os.environ.get(_name, "0").strip().isdecimal():
        raise ImportError(f"{_name} is set to {os.environ[_name]!r}; this project needs it unset or a whole number")
if os.environ.get("KERAS_HOME", "").startswith("~"):  # Keras would look in one place and write in another
    os.environ["KERAS_HOME"] = os.path.expanduser(os.environ["KERAS_HOME"])
for _name, _value in {"TF_ENABLE_ONEDNN_OPTS": "1", **thread_settings(cores())}.items():
    os.environ.setdefault(_name, _value)
with capture_stderr():
    import tensorflow as tf

    # some notices come only at the first touch: of the devices, of 16-bit numbers, and of a data set fed by Python
    tf.config.list_logical_devices()
    tf.cast([0.0], "bfloat16")
    list(tf.data.Dataset.from_generator(lambda: [0], output_signature=tf.TensorSpec((), tf.int32)))
tf.keras.config.set_floatx("float32")  # a user's keras.json may say otherwise
tf.keras.config.set_image_data_format("channels_last")

__all__ = ["capture_stderr", "tf"]
