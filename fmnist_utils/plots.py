"""Figures that notebooks share, or that take more than a few lines: each draws, computes no metric, returns Axes."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython

CORRECT_COLOR, WRONG_COLOR, NEUTRAL_COLOR = "#0072B2", "#D55E00", "#B8B8B8"  # told apart by colour-blind readers too
REFERENCE_LINE = {"color": "#555555", "linestyle": ":"}


def use_style():
    """Use the project's one look for all figures; in a notebook they are shown, whatever MPLBACKEND says."""
    plt.style.use("fmnist_utils.fmnist")
    shell = get_ipython()
    if hasattr(shell, "kernel") and plt.get_backend().lower() == "agg":
        shell.run_line_magic("matplotlib", "inline")


def plot_images(images, titles=None, columns=10, size=1.1, row_labels=None, diverging=False, shared=True):
    """Show small images, (n, h, w[, 1]) or of any sizes, in rows; returns the array of Axes.

    `size`: inches an image; `diverging`: 0 white, negative orange, positive purple, else 0 white and the highest value
    black; `shared`: one colour scale for all images, or each its own.
    """
    images = [np.reshape(image, np.shape(image)[:2]).astype(float) for image in images]
    lowest, highest = min(image.min() for image in images), max(np.abs(image).max() for image in images)
    rows = math.ceil(len(images) / columns)
    height, left = rows * size * (1.05 if titles is None else 1.3), 0 if row_labels is None else 0.95
    axs = plt.subplots(rows, columns, figsize=(columns * size + left, height), squeeze=False)[1]
    plt.setp(list(axs.flat), xticks=[], yticks=[], frame_on=False)
    for i, (ax, image) in enumerate(zip(axs.flat, images, strict=False)):
        low, top = (lowest, highest or 1) if shared else (image.min(), np.abs(image).max() or 1)
        look = {"cmap": "PuOr", "vmin": -top} if diverging else {"cmap": "gray_r", "vmin": min(0, low)}
        ax.imshow(image, vmax=top, **look)
        if titles is not None:
            ax.set_title(titles[i], fontsize=10, fontweight="normal", loc="center")
    for ax, label in zip(axs[:, 0], row_labels if row_labels is not None else [], strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    return axs


def plot_learning_curves(history, best_epoch):
    """Draw loss and accuracy, training and validation, over a history's epochs, and mark the kept one; two Axes."""
    axs = plt.subplots(1, 2, figsize=(11, 4))[1]
    for ax, name in zip(axs, ("loss", "accuracy"), strict=True):
        ax.plot(history.index, history[name], "o-", label="training")
        if f"val_{name}" in history:
            ax.plot(history.index, history[f"val_{name}"], "s--", label="validation")
        ax.axvline(best_epoch, **REFERENCE_LINE, label=f"kept: epoch {best_epoch}")
        ax.set(xlabel="epoch", ylabel=name, title=f"{name.capitalize()}, epoch by epoch")
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axs[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves: inside, it would cover some of them
    return axs


def plot_predictions(images, y, y_prob, class_names, columns=4):
    """Show images, (n, 28, 28[, 1]), beside three probabilities: blue is the true class, orange a wrong choice."""
    rows = math.ceil(len(images) / columns)
    options = {"figsize": (3.1 * columns, 1.6 * rows), "width_ratios": [1, 1.1] * columns, "squeeze": False}
    axs = plt.subplots(rows, 2 * columns, **options)[1]
    plt.setp(list(axs.flat), xticks=[], yticks=[], frame_on=False)
    for i, (image, true, probability) in enumerate(zip(images, y, y_prob, strict=True)):
        picture, bars = axs[i // columns, 2 * (i % columns) : 2 * (i % columns) + 2]
        picture.imshow(np.reshape(image, np.shape(image)[:2]))
        picture.set_title(class_names[true], fontsize=11, loc="center")
        top = np.argsort(-probability)[:3]
        colors = [CORRECT_COLOR if k == true else WRONG_COLOR if k == top[0] else NEUTRAL_COLOR for k in top]
        bars.barh(range(3), probability[top], color=colors, height=0.35)
        for row, k in enumerate(top):
            bars.text(0, row - 0.25, f"{class_names[k]} {probability[k]:.0%}", fontsize=10, va="bottom")
        bars.set(xlim=(0, 1.15), ylim=(2.4, -0.9))
    return axs


def plot_reliability_diagram(tables):
    """Draw accuracy over confidence of two {label: frame, a row per bin: confidence, accuracy, images}.

    On the diagonal confidence is right; the area of a mark is proportional to its images.
    """
    ax = plt.subplots(figsize=(8, 5.2))[1]
    ax.plot([0, 1], [0, 1], **REFERENCE_LINE, label="perfectly calibrated")
    most = max(table["images"].sum() for table in tables.values())
    for (label, table), color, mark in zip(tables.items(), (CORRECT_COLOR, WRONG_COLOR), ("o", "s"), strict=True):
        place = table["confidence"], table["accuracy"]
        ax.plot(*place, mark + "-", color=color, markersize=4, linewidth=1.5, label=label)
        ax.scatter(*place, 400 * table["images"] / most, color=color, marker=mark, clip_on=False)
    ax.set(xlabel="confidence: the highest probability", ylabel="accuracy: share of correct predictions")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    lines = ax.add_artist(ax.legend(loc="upper left", bbox_to_anchor=(1.04, 1)))
    lines.set_clip_on(False)  # else the layout leaves it no room
    marks = [
        ax.scatter([], [], 400 * images / most, color=NEUTRAL_COLOR, label=f"{images:,.0f} images")
        for images in float(f"{most:.0e}") / np.array([1, 10, 100])
    ]
    ax.legend(handles=marks, title="area of a mark", loc="lower left", bbox_to_anchor=(1.04, 0), labelspacing=1)
    return ax


def save_figure(axes, path):
    """Write the figure of an Axes, or of an array of them, as a PNG without a machine's traces; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.ravel(axes)[0].figure.savefig(path, metadata={"Software": None})
