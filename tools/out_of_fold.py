"""Predict each training image by a network that never saw it: five trainings, each on four fifths, into lessons/.

Writes lessons/out_of_fold.npz, for notebook 07: for each of the 60,000 training images, in their order, the
probabilities (60000, 10) that its fold's network gave, in 1/255. The recipe is notebook 03's own.
About 5 minutes on 2 CPU cores.
"""

import numpy as np
from sklearn.model_selection import StratifiedKFold

from fmnist_utils import data, evaluation, pipeline, runs, training
from fmnist_utils._files import write_npz
from fmnist_utils._recipe import compiled_network
from fmnist_utils._tensorflow import tf
from fmnist_utils.augmentation import augmented_batches

TARGET = runs.ROOT / "lessons" / "out_of_fold.npz"


def train(params, x, y, kept, held_out):
    """Train on the images of the positions `kept`; return the network, for any computer."""
    epochs, steps = params["epochs"], -(-len(kept) // params["batch_size"])
    model = compiled_network(params, steps)
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
    params = pipeline.defaults(pipeline.TRAINING)
    (x_raw, y_raw), _ = data.load_data()
    x, y = data.scale(x_raw), data.one_hot(y_raw)
    probability = np.zeros((len(x), 10), "float32")
    for kept, held_out in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y_raw):
        model = train(params, x, y, kept, held_out)
        probability[held_out] = evaluation.predict(model, x[held_out])
        print(f"accuracy: {np.mean(probability[held_out].argmax(axis=1) == y_raw[held_out]):.4f}", flush=True)
    TARGET.parent.mkdir(exist_ok=True)
    write_npz(TARGET, probability=np.round(255 * probability).astype("uint8"))


if __name__ == "__main__":
    main()
