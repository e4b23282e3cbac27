"""TensorFlow, imported without its start-up log.

TensorFlow's C++ side writes notices about CUDA and oneDNN to file descriptor 2 before any Python setting
can reach it, so TF_CPP_MIN_LOG_LEVEL does not help. In a notebook they would stand as a red block above the
first result, and strict notebook tests would fail on them.
"""

import os
import sys
import tempfile
from contextlib import contextmanager


@contextmanager
def stderr_set_aside():
    """Send file descriptor 2 to a temporary file; when the body raises, show what was written there."""
    sys.stderr.flush()
    keep = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(keep, 2)
            os.close(keep)
            if failed:
                aside.seek(0)
                sys.stderr.write(aside.read().decode(errors="replace"))


with stderr_set_aside():
    import tensorflow as tf

    # some notices come only at the first touch: of the devices, and of a data set fed by Python
    tf.config.list_logical_devices()
    list(tf.data.Dataset.from_generator(lambda: [0], output_signature=tf.TensorSpec((), tf.int32)))

__all__ = ["tf"]
