"""The copy of the network that trains: the same layers and weights, prepared for the processor at hand.

On a CPU: activations in bfloat16 where the processor multiplies it fast; batch normalisation by TensorFlow's fused
kernel; and each batch as two halves side by side, since one operation seldom keeps two cores busy. There are always two
halves, so that the arithmetic is the same everywhere. With a GPU the step is Keras's own, in float32.
"""

import os
import re
from contextlib import nullcontext, suppress
from pathlib import Path

from fmnist_utils._tensorflow import tf

CPUINFO = Path("/proc/cpuinfo")
BatchNormalization = tf.keras.layers.BatchNormalization


def training_copy(model, precision="auto"):
    """Copy a model of `build_model`, with its weights, uncompiled, so that its steps are fast on this computer.

    `precision`: "float32", "mixed_bfloat16" (activations in 16 bits, weights and softmax in 32; Kalamkar et al. 2019,
    arXiv:1905.12322) or "auto": mixed_bfloat16 where `bfloat16_is_faster`.
    """
    if precision == "auto":
        precision = "mixed_bfloat16" if bfloat16_is_faster() else "float32"
    if tf.config.list_physical_devices("GPU"):
        copy = _clone(model, precision, BatchNormalization)
    else:
        copy = _clone(model, precision, _FusedBatchNormalization)
        copy = _TwoHalvesModel(copy.inputs[0], copy.outputs[0], name=model.name)
    copy.set_weights(model.get_weights())
    return copy


def plain_copy(model):
    """Return a copy of a model for any computer: built-in Keras layers in float32, its weights, not compiled."""
    copy = _clone(model, "float32", BatchNormalization)
    copy.set_weights(model.get_weights())
    return copy


def bfloat16_is_faster():
    """Tell if bfloat16 is fast here: by AMX, or AMD's AVX512_BF16 (Intel's is slower), unless oneDNN may not use it."""
    with suppress(OSError):
        content = CPUINFO.read_text(encoding="utf-8")
        flags = set("".join(re.findall(r"^flags\s*:(.*)$", content, re.MULTILINE)[:1]).split())
        fast = "amx_bf16" in flags or ("avx512_bf16" in flags and "AuthenticAMD" in content)
        free = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL") == "ALL" and os.environ["TF_ENABLE_ONEDNN_OPTS"] != "0"
        return fast and free and not tf.config.list_physical_devices("GPU")
    return False


def _clone(model, precision, batch_normalization):
    def clone_layer(layer):
        dtype = "float32" if layer.name in ("image", "probabilities") else precision
        kind = batch_normalization if isinstance(layer, BatchNormalization) else type(layer)
        return kind.from_config({**layer.get_config(), "dtype": dtype})

    functional = tf.keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # a Sequential one, too
    return tf.keras.models.clone_model(functional, clone_function=clone_layer)


class _FusedBatchNormalization(BatchNormalization):
    """Keras's layer by TensorFlow's fused kernel; called twice a step, its averages use the root of `momentum`."""

    def call(self, inputs, training=None, mask=None):
        x = inputs[:, None, None, :] if len(inputs.shape) == 2 else inputs
        means = [tf.cast(v, "float32") for v in (self.moving_mean, self.moving_variance)]
        mean, variance = ([], []) if training else means
        scale, offset = tf.cast(self.gamma, "float32"), tf.cast(self.beta, "float32")
        result = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=mean, variance=variance,
            epsilon=self.epsilon, is_training=bool(training),
        )  # fmt: skip
        if training:
            n = tf.cast(tf.size(x) // x.shape[-1], "float32")
            variance = result.batch_variance * ((n - 1) / n)  # the kernel divides by n - 1, Keras by n
            momentum = self.momentum**0.5
            self.moving_mean.assign(momentum * means[0] + (1 - momentum) * result.batch_mean)
            self.moving_variance.assign(momentum * means[1] + (1 - momentum) * variance)
        return result.y[:, 0, 0, :] if len(inputs.shape) == 2 else result.y


class _TwoHalvesModel(tf.keras.Model):
    """Each step computes two halves of a batch side by side; both hold an odd batch's middle image, at half weight."""

    def train_step(self, data):
        x, y = data
        tapes = tf.GradientTape(), tf.GradientTape()
        predictions, losses = self._forward(x, y, tapes)
        weights = self.trainable_variables
        gradients = [tape.gradient(loss, weights) for tape, loss in zip(tapes, losses, strict=True)]
        self.optimizer.apply_gradients(
            [(first + second, weight) for first, second, weight in zip(*gradients, weights, strict=True)]
        )
        return self._report(x, y, predictions, losses)

    def test_step(self, data):
        x, y = data
        return self._report(x, y, *self._forward(x, y))

    def _forward(self, x, y, tapes=None):
        n = tf.shape(x)[0]
        half = (n + 1) // 2
        ends = tf.ones(n // 2), tf.fill([n % 2], 0.5)
        predictions, losses = [], []
        for part, weight, tape in zip(
            (slice(0, half), slice(n - half, n)),
            (tf.concat(ends, 0), tf.concat(ends[::-1], 0)),
            tapes or (nullcontext(), nullcontext()),
            strict=True,
        ):
            with tape:
                y_pred = self(x[part], training=tapes is not None)
                loss = self.compute_loss(x[part], y[part], y_pred, weight, training=tapes is not None)
                losses.append(loss * tf.cast(half, "float32") / tf.cast(n, "float32"))  # a share of the batch's mean
            predictions.append(y_pred)
        return tf.concat([predictions[0], predictions[1][n % 2 :]], 0), losses

    def _report(self, x, y, y_pred, losses):
        self._loss_tracker.update_state(tf.add_n(losses), sample_weight=tf.shape(x)[0])
        return self.compute_metrics(x, y, y_pred)
