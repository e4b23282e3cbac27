"""Milliseconds of a training step of quick's network by Adam and by Muon, in turn: other work then hits both alike."""

import timeit
from functools import partial

import pandas as pd

from fmnist_utils import training
from fmnist_utils._tensorflow import tf
from fmnist_utils.model import build_model

for size in (128, 256):
    x, y, steps = tf.random.uniform((size, 28, 28, 1)), tf.one_hot(tf.range(size) % 10, 10), {}
    for kind in (tf.keras.optimizers.Adam, training.Muon):
        model = training.training_copy(build_model(dropout=0.02))
        model.compile(kind(0.01, beta_2=0.99), "categorical_crossentropy", metrics=["accuracy"])
        model.optimizer.build(model.trainable_variables)
        steps[kind.__name__] = tf.function(partial(model.train_step, (x, y)))
        steps[kind.__name__]()  # its graph is built
    rows = [{name: 50 * timeit.timeit(step, number=20) for name, step in steps.items()} for _ in range(20)]
    table = pd.DataFrame(rows)
    print(size, table.median().round(1).to_dict(), "ratio", round((table["Muon"] / table["Adam"]).median(), 3))
