"""TensorFlow, imported without its start-up log, and with its fast convolutions on every Intel and AMD processor.

Its C++ side writes notices to file descriptor 2 before any Python setting can reach it; in a notebook they would stand
as a red block above the first result. Settings that it reads at its start are set here, unless they are set already:
oneDNN on processors without AVX-512 too, where Eigen takes 3.4 times as long (benchmarks/README.md), and two operations
at a time, since training computes two halves of a batch side by side (`_training_copy`).
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
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(keep, captured.read())
            raise
        finally:
            os.dup2(keep, 2)
            os.close(keep)


for _name, _wanted in {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}.items():
    if os.environ.get(_name, _wanted).lower() not in (_wanted, "", "false"):
        raise ImportError(f"{_name} is set to {os.environ[_name]!r}; this project needs it unset or {_wanted!r}")
    os.environ[_name] = _wanted  # or a user's keras.json decides
if os.environ.get("KERAS_HOME", "").startswith("~"):  # Keras would look in one place and write in another
    os.environ["KERAS_HOME"] = os.path.expanduser(os.environ["KERAS_HOME"])
_own = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # several notebooks may share a GPU
for _name, _value in (_own | thread_settings(cores())).items():
    os.environ[_name] = os.environ.get(_name, "").strip() or _value
with capture_stderr():
    import tensorflow as tf

    # some notices come only at the first touch: of the devices, of 16-bit numbers, and of a data set fed by Python
    tf.config.list_logical_devices()
    tf.cast([0.0], "bfloat16")
    list(tf.data.Dataset.from_generator(lambda: [0], output_signature=tf.TensorSpec((), tf.int32)))
tf.keras.config.set_floatx("float32")  # a user's keras.json may say otherwise
tf.keras.config.set_image_data_format("channels_last")
