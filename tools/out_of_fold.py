"""Ask each training image of a network that never saw it: five trainings, each on four fifths, into lessons/.

Writes lessons/out_of_fold.npz, for notebook 07: for each of the 60,000 training images, in their order, the
probabilities (60000, 10) that its fold's network gave, in 1/255. The recipe is params/quick.yaml.
About 6 minutes on 2 CPU cores.
"""

import numpy as np
from sklearn.model_selection import StratifiedKFold

from fmnist_utils import data, evaluation, pipeline, runs, training
from fmnist_utils.model import build_model, with_precision
from fmnist_utils.quiet import tf

TARGET = runs.ROOT / "lessons" / "out_of_fold.npz"
NETWORK = ("filters", "convs_per_block", "kernel_size", "dropout", "dense_units", "batch_norm", "pooling_head")
TRAINING = ("epochs", "batch_size", "early_stopping", "patience", "augment", "skip_easy", "seed")


def train(params, x, y, kept, held_out):
    tf.keras.utils.set_random_seed(params["seed"])
    tf.config.experimental.enable_op_determinism()
    model = with_precision(build_model(**{name: params[name] for name in NETWORK}), params["precision"])
    steps = training.steps_of_epochs(len(kept), params["batch_size"], params["epochs"], params["skip_easy"])
    rate = training.learning_rate_schedule(params["schedule"], params["learning_rate"], sum(steps))
    loss = tf.keras.losses.CategoricalCrossentropy(label_smoothing=params["label_smoothing"])
    model.compile(tf.keras.optimizers.Adam(rate, beta_2=0.99), loss, metrics=["accuracy"])
    settings = {name: params[name] for name in TRAINING}
    # the last epoch is kept, so that the fold's own images choose nothing
    training.fit(model, x[kept], y[kept], x[held_out], y[held_out], **settings | {"early_stopping": False})
    return with_precision(model, "float32")


def main():
    params = pipeline.read_parameters(runs.ROOT / "params" / "quick.yaml")
    (x_raw, y_raw), _ = data.load_raw()
    x, y = data.scale(x_raw), data.one_hot(y_raw)
    probability = np.zeros((len(x), 10), "float32")
    for kept, held_out in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y_raw):
        model = train(params, x, y, kept, held_out)
        probability[held_out] = evaluation.predict(model, x[held_out])
        print(f"right: {np.mean(probability[held_out].argmax(axis=1) == y_raw[held_out]):.4f}", flush=True)
    TARGET.parent.mkdir(exist_ok=True)
    runs.write_npz(TARGET, probability=np.round(255 * probability).astype("uint8"))


if __name__ == "__main__":
    main()
