"""Notebook 03's network, compiled as its cell `train-fit` does it, for the tools that train without the notebook."""

from functools import cache
from inspect import signature

from fmnist_utils import pipeline
from fmnist_utils._tensorflow import tf
from fmnist_utils.model import build_model, layer_costs
from fmnist_utils.training import learning_rate_schedule, steps_per_execution, training_copy

NETWORK = tuple(signature(build_model).parameters)  # the parameters that are the network's


def read_recipe(path):
    """Return all parameters of notebook 03, those of a parameter file in place of their defaults."""
    return pipeline.defaults(pipeline.TRAINING) | pipeline.read_parameters(path)


def compiled_network(params, steps_per_epoch, **changes):
    """Build and compile the network that trains, seeded.

    Args:
        params (dict): From `read_recipe`.
        steps_per_epoch (int): Batches.
        changes: Arguments of `compile` in place of 03's; `copy`, a function in place of `training_copy`.

    Returns:
        keras.Model: Compiled.
    """
    tf.keras.utils.set_random_seed(params["seed"])
    tf.config.experimental.enable_op_determinism()
    copy = changes.pop("copy", training_copy)
    model = copy(build_model(**{name: params[name] for name in NETWORK}), params["precision"])
    rate = learning_rate_schedule(params["schedule"], params["learning_rate"], steps_per_epoch * params["epochs"])
    optimizer = tf.keras.optimizers.Adam(rate, beta_2=0.99, weight_decay=params["weight_decay"] or None)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = tf.keras.losses.CategoricalCrossentropy(label_smoothing=params["label_smoothing"])
    together = {"steps_per_execution": steps_per_execution(steps_per_epoch)}
    model.compile(optimizer, loss, metrics=["accuracy"], **{**together, **changes})
    return model


def training_multiply_adds(params):
    """Return the multiply-adds of all forward passes of a training."""
    network = tuple(tuple(value) if isinstance(value, list) else value for value in map(params.get, NETWORK))
    images = params["train_size"] or 60_000 * (1 - params["validation_fraction"])
    return _multiply_adds_of_an_image(network) * images * params["epochs"]


@cache
def _multiply_adds_of_an_image(network):
    return int(layer_costs(build_model(**dict(zip(NETWORK, network, strict=True))))["multiply_adds"].sum())
