"""Ask each training image of a network that never saw it: five trainings, each on four fifths, into lessons/.

Writes lessons/out_of_fold.npz, for notebook 07: for each of the 60,000 training images, in their order, the
probabilities (60000, 10) that its fold's network gave, in 1/255. The recipe is params/quick.yaml.
About 6 minutes on 2 CPU cores.
"""

import numpy as np
from sklearn.model_selection import StratifiedKFold

from fmnist_utils import data, evaluation, pipeline, runs, training
from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import augmented_batches
from fmnist_utils.model import build_model

TARGET = runs.ROOT / "lessons" / "out_of_fold.npz"
NETWORK = (
    "filters", "convs_per_block", "kernel_size", "dropout", "dense_units", "batch_norm", "pooling_head", "downsampling",
)  # fmt: skip


def train(params, x, y, kept, held_out):
    tf.keras.utils.set_random_seed(params["seed"])
    tf.config.experimental.enable_op_determinism()
    model = training.training_copy(build_model(**{name: params[name] for name in NETWORK}), params["precision"])
    epochs, steps = params["epochs"], -(-len(kept) // params["batch_size"])
    rate = training.learning_rate_schedule(params["schedule"], params["learning_rate"], steps * epochs)
    optimizer = tf.keras.optimizers.Adam(rate, beta_2=0.99, weight_decay=params["weight_decay"] or None)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = tf.keras.losses.CategoricalCrossentropy(label_smoothing=params["label_smoothing"])
    together = training.steps_per_execution(steps)
    model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=together)
    changes = {name: params[name] for name in ("augment", "max_shift", "seed")}
    batches = augmented_batches(x[kept], y[kept], params["batch_size"], epochs=epochs, **changes)
    # the last epoch is kept, so that the fold's own images choose nothing
    never = tf.keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=False)
    model.fit(
        batches, steps_per_epoch=steps, epochs=epochs, validation_data=(x[held_out], y[held_out]),
        validation_batch_size=1000, shuffle=False, verbose=0,
        callbacks=[never, training.Checkpoint(None, never, params["seed"]), training.Progress()],
    )  # fmt: skip
    return training.plain_copy(model)


def main():
    params = pipeline.read_parameters(runs.ROOT / "params" / "quick.yaml")
    (x_raw, y_raw), _ = data.load_data()
    x, y = data.scale(x_raw), data.one_hot(y_raw)
    probability = np.zeros((len(x), 10), "float32")
    for kept, held_out in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y_raw):
        model = train(params, x, y, kept, held_out)
        probability[held_out] = evaluation.predict(model, x[held_out])
        print(f"right: {np.mean(probability[held_out].argmax(axis=1) == y_raw[held_out]):.4f}", flush=True)
    TARGET.parent.mkdir(exist_ok=True)
    _files.write_npz(TARGET, probability=np.round(255 * probability).astype("uint8"))


if __name__ == "__main__":
    main()
