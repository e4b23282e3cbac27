"""Training: the learning rate's schedule, and what `model.fit` needs besides Keras's own callbacks."""

from fmnist_utils._checkpoint import Checkpoint
from fmnist_utils._progress import Progress
from fmnist_utils._tensorflow import tf
from fmnist_utils._training_copy import plain_copy, training_copy

__all__ = [
    "Checkpoint", "Progress", "learning_rate_schedule", "plain_copy", "steps_per_execution", "training_copy",
    "training_summary",
]  # fmt: skip
MAX_STEPS_PER_EXECUTION = 25


def learning_rate_schedule(schedule: str, learning_rate: float, steps: int):
    """Make what Adam takes as its learning rate.

    Args:
        schedule: "one_cycle" rises to `learning_rate` over the first fifth of all steps and falls to 0 as a half
            cosine (after Smith 2018, arXiv:1803.09820); "cosine" falls from the start; "constant" stays.
        learning_rate: The highest rate.
        steps: Of the whole training.

    Returns:
        float or keras.optimizers.schedules.LearningRateSchedule

    Raises:
        ValueError: The schedule is unknown.
    """
    if schedule == "constant":
        return learning_rate
    if schedule == "cosine":
        return tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    if schedule == "one_cycle":
        warmup_steps = max(1, steps // 5)
        return tf.keras.optimizers.schedules.CosineDecay(
            learning_rate / 10, max(1, steps - warmup_steps), warmup_target=learning_rate, warmup_steps=warmup_steps
        )
    raise ValueError(f"schedule = {schedule!r}: allowed are one_cycle, cosine, constant")


def steps_per_execution(steps_per_epoch: int) -> int:
    """Return how many steps Keras should run in one go: the largest divisor of an epoch's steps up to 25.

    Between two goes Keras comes back to Python, which costs time; a go must not reach into the next epoch.
    """
    return max(n for n in range(1, MAX_STEPS_PER_EXECUTION + 1) if steps_per_epoch % n == 0)


def training_summary(history, best_epoch: int, images: int, seed: int) -> dict:
    """Summarise a training for a run's metrics.json.

    Args:
        history (keras.callbacks.History): What `fit` returned, with the columns of `Checkpoint`.
        best_epoch: The epoch whose weights were kept, counted from 1.
        images: Their number in an epoch.
        seed: Of the training.

    Returns:
        JSON values: what the kept epoch reached on validation images, and what the training cost. Seconds are of
        training alone, without validation; the first epoch's have the building of the graph in them.
    """
    columns, epochs = history.history, len(history.history["loss"])
    seconds = sum(columns["seconds"])
    return {
        "val_accuracy": columns["val_accuracy"][best_epoch - 1],
        "val_loss": columns["val_loss"][best_epoch - 1],
        "best_epoch": best_epoch,
        "epochs_run": epochs,
        "train_seconds": round(seconds, 2),
        "images_per_second": round(images * epochs / seconds, 1),
        "model_parameters": history.model.count_params(),
        "precision": history.model.layers[1].dtype_policy.name,
        "seed": seed,
    }
