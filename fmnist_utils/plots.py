"""Figures: each function takes arrays or a frame, draws them, and returns the Axes. Nothing here computes a metric."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython import get_ipython
from matplotlib.colors import to_rgba

CORRECT_COLOR, WRONG_COLOR, NEUTRAL_COLOR = "#0072B2", "#D55E00", "#B8B8B8"  # told apart by colour-blind readers too
REFERENCE_LINE = {"color": "#555555", "linestyle": ":"}


def use_style():
    """Use the project's one look for all figures; in a notebook they are shown, whatever MPLBACKEND says."""
    plt.style.use("fmnist_utils.fmnist")
    shell = get_ipython()
    if hasattr(shell, "kernel") and plt.get_backend().lower() == "agg":
        shell.run_line_magic("matplotlib", "inline")


def plot_images(
    images, titles=None, columns=10, size=1.1, row_labels=None, diverging=False, shared=True, colorbar=None
):
    """Show small images in rows.

    Args:
        images: (n, h, w) or (n, h, w, 1), any numeric type, or n images of any sizes.
        titles: n texts, or None.
        columns (int): Images a row.
        size (float): Inches an image.
        row_labels: A text for each row, or None.
        diverging (bool): 0 is white, negative orange, positive purple; else 0 is white and the highest value black.
        shared (bool): One colour scale for all images, or each its own.
        colorbar (str): Label of a colour bar, or None; it needs the shared scale.

    Returns:
        The array of Axes.

    Raises:
        ValueError: A colour bar over images of different scales.
    """
    if colorbar is not None and not shared:
        raise ValueError("one colour bar cannot serve images of different scales: leave out colorbar, or shared=False")
    images = [np.reshape(image, np.shape(image)[:2]).astype(float) for image in images]
    lowest, highest = min(image.min() for image in images), max(np.abs(image).max() for image in images)
    rows = math.ceil(len(images) / columns)
    height = rows * size * (1.3 if titles is not None else 1.05)
    left = 0.95 if row_labels is not None else 0
    axs = plt.subplots(rows, columns, figsize=(columns * size + left, height), squeeze=False)[1]
    for i, ax in enumerate(axs.flat):
        ax.set(xticks=[], yticks=[], frame_on=False)
        ax.grid(False)
        if i >= len(images):
            continue
        low, top = (lowest, highest) if shared else (images[i].min(), np.abs(images[i]).max())
        top = top or 1
        if diverging:
            ax.imshow(images[i], cmap="PuOr", vmin=-top, vmax=top)
        else:
            ax.imshow(images[i], cmap="gray_r", vmin=min(0, low), vmax=top)
        if titles is not None:
            ax.set_title(titles[i], fontsize=10, fontweight="normal", loc="center")
    for ax, label in zip(axs[:, 0], row_labels if row_labels is not None else [], strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    if colorbar is not None:
        axs.flat[0].figure.colorbar(axs.flat[0].images[0], ax=axs, label=colorbar, shrink=0.9)
    return axs


def plot_class_counts(counts, ax=None):
    """Draw grouped bars of images a class.

    Args:
        counts: Frame, a row a class, a column a part of the data.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots()[1]
    counts.plot.barh(ax=ax, width=0.8)
    ax.invert_yaxis()
    ax.set(xlabel="images", ylabel="")
    ax.grid(False, axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def plot_pixel_histograms(shares, edges, axs=None):
    """Draw one histogram of pixel values a class.

    Args:
        shares: Frame, a row a class, a column a bin: the share of the class's pixels in the bin, 0 to 1.
        edges: (bins + 1,) pixel values.
        axs: Array of Axes to draw into, or None for a new figure.

    Returns:
        The array of Axes.
    """
    if axs is None:
        axs = plt.subplots(2, 5, figsize=(11, 4), sharex=True, sharey=True)[1]
    for ax, (name, row) in zip(axs.flat, shares.iterrows(), strict=True):
        ax.stairs(row, edges, fill=True)
        ax.set_title(name, fontsize=10)
    for ax in axs[-1]:
        ax.set_xlabel("pixel value, 0–255")
    for ax in axs[:, 0]:
        ax.set_ylabel("share of pixels")
    return axs


def plot_histograms(values, xlabel, labels, ax=None):
    """Draw outlined histograms of sets of numbers over each other.

    Args:
        values: List of arrays.
        xlabel (str): What the numbers are.
        labels: A name for each set.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots()[1]
    edges = np.histogram_bin_edges(np.concatenate([np.ravel(v) for v in values]), bins=60)
    for part, label in zip(values, labels, strict=True):
        ax.hist(np.ravel(part), bins=edges, histtype="step", linewidth=2, label=label)
    ax.set(xlabel=xlabel, ylabel="number of values")
    ax.legend()
    return ax


def plot_learning_curves(history, best_epoch=None, axs=None):
    """Draw loss and accuracy over the epochs, for training and validation, and mark the epoch that was kept.

    Args:
        history: Frame indexed by epoch (1, 2, …) with loss, accuracy, val_loss, val_accuracy.
        best_epoch (int): The epoch to mark, or None.
        axs: Two Axes to draw into, or None for a new figure.

    Returns:
        The two Axes.
    """
    if axs is None:
        axs = plt.subplots(1, 2, figsize=(11, 4))[1]
    for ax, name in zip(axs, ("loss", "accuracy"), strict=True):
        ax.plot(history.index, history[name], "o-", label="training")
        ax.plot(history.index, history[f"val_{name}"], "s--", label="validation")
        if best_epoch:
            ax.axvline(best_epoch, **REFERENCE_LINE, label=f"kept: epoch {best_epoch}")
        ax.set(xlabel="epoch", ylabel=name, title=f"{name.capitalize()}, epoch by epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axs[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves: inside, it would cover some of them
    return axs


def plot_loss_curves(histories, axs=None):
    """Draw training and validation loss of several trainings side by side; mark each lowest validation loss.

    Args:
        histories: {title: frame indexed by epoch with loss and val_loss}.
        axs: Array of Axes to draw into, or None for a new figure.

    Returns:
        The Axes, one a training.
    """
    if axs is None:
        axs = plt.subplots(1, len(histories), figsize=(11, 3.6), sharey=True)[1]
    for ax, (title, history) in zip(axs, histories.items(), strict=True):
        best_epoch = history["val_loss"].idxmin()
        ax.plot(history.index, history["loss"], "o-", label="training")
        ax.plot(history.index, history["val_loss"], "s--", label="validation")
        ax.axvline(best_epoch, **REFERENCE_LINE)
        left = best_epoch > history.index.max() / 2
        ax.annotate(
            f"lowest: epoch {best_epoch}", (best_epoch, 0.95), (-4 if left else 4, 0), ax.get_xaxis_transform(),
            "offset points", ha="right" if left else "left",
        )  # fmt: skip
        ax.set(xlabel="epoch", title=title)
        ax.xaxis.get_major_locator().set_params(integer=True)
    highest = max(history[["loss", "val_loss"]].max(axis=None) for history in histories.values())
    axs[0].set(ylabel="loss", ylim=(0, 1.05 * highest))
    axs[-1].legend()
    return axs


def plot_learning_rate(steps, rates, ax=None):
    """Draw the planned learning rate.

    Args:
        steps: (n,) training steps, counted from 0.
        rates: (n,) learning rates.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots(figsize=(6, 2.8))[1]
    ax.plot(steps, rates)
    ax.set(xlabel="steps done", ylabel="learning rate", ylim=(0, None))
    return ax


def plot_layer_costs(costs, axs=None):
    """Draw parameters and multiply-adds a layer, each bar with its number, as some are too short to be seen.

    Args:
        costs: Frame from `model.layer_costs`.
        axs: Two Axes to draw into, or None for a new figure.

    Returns:
        The two Axes.
    """
    if axs is None:
        axs = plt.subplots(1, 2, figsize=(11, 0.32 * len(costs) + 1), sharey=True)[1]
    for ax, name, color in zip(axs, ("parameters", "multiply_adds"), (CORRECT_COLOR, WRONG_COLOR), strict=True):
        bars = ax.barh(costs.index, costs[name], color=color)
        ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=9)
        ax.margins(x=0.2)
        ax.yaxis.set_inverted(True)
        ax.set(xlabel=name.replace("_", "-"))
        ax.grid(False, axis="y")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.get_major_locator().set_params(nbins=4)
    return axs


def plot_confusion_matrix(matrix, class_names, ax=None):
    """Draw a confusion matrix as a heat map; the diagonal is left pale so that the mistakes stand out.

    Args:
        matrix: (k, k) int, row the true class, column the predicted one.
        class_names: k texts.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots(figsize=(8, 6.5))[1]
    mistakes = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    sns.heatmap(
        mistakes, annot=matrix, fmt="d", cmap="Oranges", ax=ax, linewidths=0.5, square=True,
        xticklabels=class_names, yticklabels=class_names, cbar_kws={"label": "mistakes (images)", "shrink": 0.8},
    )  # fmt: skip
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.tick_params(length=0)
    ax.set_xticklabels(ax.get_xticklabels(), rotation=45, ha="right")
    return ax


def plot_per_class(scores, ax=None):
    """Draw precision, recall and F1 of each class as marks below each other, so that none covers another.

    Args:
        scores: Frame, a row a class, with these three columns, 0 to 1.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots(figsize=(8, 5.5))[1]
    rows = np.arange(len(scores))
    for name, mark, offset in (("precision", ">", -0.25), ("recall", "o", 0), ("f1", "D", 0.25)):
        ax.plot(scores[name], rows + offset, mark, label="F1" if name == "f1" else name, markersize=6)
    for row in rows[1::2]:
        ax.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", zorder=0)
    ax.set_yticks(rows, scores.index)
    ax.set(xlabel="score, 1 is perfect", xlim=(None, 1.005), ylim=(len(scores) - 0.5, -0.5))
    ax.grid(False, axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def plot_predictions(images, y, y_prob, class_names, columns=4):
    """Show images, each beside its three highest probabilities: blue the true class, orange a wrong first choice.

    Args:
        images: (n, 28, 28) or (n, 28, 28, 1).
        y: (n,) true classes.
        y_prob: (n, k) probabilities.
        class_names: k texts.
        columns (int): Images a row.

    Returns:
        The array of Axes.
    """
    rows = math.ceil(len(images) / columns)
    axs = plt.subplots(
        rows,
        2 * columns,
        figsize=(3.1 * columns, 1.6 * rows),
        squeeze=False,
        width_ratios=[1, 1.1] * columns,
    )[1]
    for ax in axs.flat:
        ax.set(xticks=[], yticks=[], frame_on=False)
        ax.grid(False)
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


def plot_heat_maps(images, heats, titles=None, columns=6, row_labels=None):
    """Show images with a heat map laid over each: the more orange, the higher its value.

    Args:
        images: (n, h, w) or (n, h, w, 1).
        heats: (n, h, w), 0 to 1, each at its image's size.
        titles: n texts, or None.
        columns (int): Images a row.
        row_labels: A text for each row, or None.

    Returns:
        The array of Axes.
    """
    axs = plot_images(images, titles, columns, 1.5, row_labels)
    for ax, heat in zip(axs.flat, heats, strict=False):
        height, width = np.shape(heat)
        layer = np.full((height, width, 4), to_rgba(WRONG_COLOR))
        layer[..., 3] = 0.75 * np.clip(heat, 0, 1)
        ax.imshow(layer, interpolation="bilinear")
    return axs


def plot_reliability_diagram(tables, ax=None):
    """Draw accuracy over confidence; on the diagonal, predictions of 80 % confidence are correct in 80 % of the cases.

    Args:
        tables: Two of {label: frame, a row a bin, with confidence, accuracy and images}. The area of a mark is
            proportional to its images; a second key shows three sizes.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots(figsize=(8, 5.2))[1]
    ax.plot([0, 1], [0, 1], **REFERENCE_LINE, label="perfectly calibrated")
    most = max(table["images"].sum() for table in tables.values())
    for (label, table), color, mark in zip(tables.items(), (CORRECT_COLOR, WRONG_COLOR), ("o", "s"), strict=True):
        ax.plot(
            table["confidence"], table["accuracy"], mark + "-", color=color, markersize=4, linewidth=1.5, label=label
        )
        sizes = 400 * table["images"] / most
        ax.scatter(table["confidence"], table["accuracy"], sizes, color=color, marker=mark, clip_on=False)
    ax.set(
        xlabel="confidence: the highest probability", ylabel="accuracy: share of correct predictions", xlim=(0, 1),
        ylim=(0, 1), aspect="equal",
    )  # fmt: skip
    lines = ax.add_artist(ax.legend(loc="upper left", bbox_to_anchor=(1.04, 1)))
    lines.set_clip_on(False)  # else the layout leaves it no room
    marks = [
        ax.scatter([], [], 400 * images / most, color=NEUTRAL_COLOR, label=f"{images:,.0f} images")
        for images in float(f"{most:.0e}") / np.array([1, 10, 100])
    ]
    ax.legend(handles=marks, title="area of a mark", loc="lower left", bbox_to_anchor=(1.04, 0), labelspacing=1)
    return ax


def plot_robustness(curves, columns=4, axs=None):
    """Draw how accuracy falls as images are disturbed more, a panel a kind of disturbance.

    Args:
        curves: {kind with its unit: Series of accuracy indexed by strength, from none to the strongest}.
        columns (int): Panels a row.
        axs: Array of Axes to draw into, or None for a new figure.

    Returns:
        The array of Axes.
    """
    if axs is None:
        columns = min(columns, len(curves))
        rows = math.ceil(len(curves) / columns)
        axs = plt.subplots(rows, columns, figsize=(2.9 * columns, 2.6 * rows), sharey=True, squeeze=False)[1]
    for ax in np.ravel(axs)[len(curves) :]:
        ax.set_axis_off()
    for ax, (kind, accuracy) in zip(np.ravel(axs), curves.items(), strict=False):
        ax.plot(accuracy.index, accuracy, "o-", color=CORRECT_COLOR)
        ax.axhline(0.1, **REFERENCE_LINE)
        ax.xaxis.set_inverted(bool(accuracy.index[0] > accuracy.index[-1]))  # the strongest is always on the right
        ax.set(xlabel=kind, ylabel="accuracy", ylim=(0, 1))
    return axs


def plot_embedding(places, images, y, class_names, axis_names=("", ""), ax=None):
    """Show where images lie in two dimensions: a dot each, coloured by class, and the images themselves where they fit.

    Args:
        places: (n, 2) coordinates.
        images: (n, 28, 28) or (n, 28, 28, 1), each framed in its class's colour; only where it covers no earlier one.
        y: (n,) classes.
        class_names: k texts.
        axis_names: Of the two dimensions; empty where they have no meaning of their own.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots(figsize=(11, 8))[1]
    colors = sns.color_palette("colorblind", len(class_names))  # ten that colour-blind readers tell apart best
    for k, name in enumerate(class_names):
        ax.scatter(*places[y == k].T, s=14, color=colors[k], marker="o^s"[k % 3], label=name)
    span, side = np.ptp(places, axis=0), 0.05
    shown = np.zeros((0, 2))
    for place, image, k in zip(places, images, y, strict=True):
        if (np.abs(shown - place) / span).max(axis=1).min(initial=1) > 1.2 * side:
            shown = np.vstack([shown, place])
            (left, low), (width, height) = place - side / 2 * span, side * span
            ax.imshow(
                np.reshape(image, np.shape(image)[:2]), extent=(left, left + width, low, low + height), zorder=2,
                aspect="auto",
            )  # fmt: skip
            frame = {"fill": False, "edgecolor": colors[k], "linewidth": 1.5, "zorder": 3}
            ax.add_patch(plt.Rectangle((left, low), width, height, **frame))
    (left, low), (right, high) = places.min(axis=0) - side * span, places.max(axis=0) + side * span
    ax.set(xlim=(left, right), ylim=(low, high), xticks=[], yticks=[], xlabel=axis_names[0], ylabel=axis_names[1])
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=2)
    return ax


def plot_intervals(frame, xlabel, baseline=None, ax=None):
    """Draw a mean and its interval a row, the first row on top. A row whose interval holds the baseline is grey.

    Args:
        frame: A row a configuration, with mean, low and high; low and high may be nan.
        xlabel (str): What the numbers are.
        baseline (float): A line to compare with, or None.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots(figsize=(8, 0.42 * len(frame) + 0.9))[1]
    for place, row in enumerate(frame.itertuples()):
        color = CORRECT_COLOR
        if baseline is not None and not row.low > baseline:  # nan too
            color = WRONG_COLOR if row.high < baseline else NEUTRAL_COLOR
        ax.plot([row.low, row.high], [place, place], color=color, linewidth=3, solid_capstyle="butt")
        ax.plot(row.mean, place, "o", color=color, markersize=8, markeredgecolor="white")
    if baseline is not None:
        ax.axvline(baseline, **REFERENCE_LINE)
    ax.set_yticks(range(len(frame)), frame.index)
    ax.set(xlabel=xlabel, ylim=(max(1, len(frame)) - 0.5, -0.5))
    ax.grid(False, axis="y")
    return ax


def plot_effects(frames, metric, axs=None):
    """Draw what each swept parameter does to a metric: a dot a run, and a line through the means.

    A parameter of many numbers, as from a random search, is a scatter plot, with a logarithmic axis where the numbers
    span more than a factor of ten.

    Args:
        frames: {parameter: frame, a row a run, with that column and the metric's}.
        metric (str): The metric's column.
        axs: Array of Axes to draw into, or None for a new figure.

    Returns:
        The array of Axes.
    """
    if axs is None:
        columns = min(4, math.ceil(math.sqrt(len(frames))))
        rows = math.ceil(len(frames) / columns)
        axs = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.5 * rows), sharey=True, squeeze=False)[1]
    for ax in np.ravel(axs)[len(frames) :]:
        ax.set_axis_off()
    for ax, (name, frame) in zip(np.ravel(axs), frames.items(), strict=False):
        values = frame[name]
        if values.dtype.kind in "if" and values.nunique() > 6:
            sns.scatterplot(x=values, y=frame[metric], ax=ax, color=CORRECT_COLOR, alpha=0.6)
            if values.min() > 0 and values.max() / values.min() > 10:
                ax.set_xscale("log")
        else:
            kinds = [str(value) for value in sorted(values.unique())]
            shared = {"x": values.astype(str), "y": frame[metric], "order": kinds, "ax": ax}
            sns.stripplot(**shared, color=NEUTRAL_COLOR, size=6, jitter=False)
            sns.pointplot(**shared, color=CORRECT_COLOR, errorbar=None, markersize=6, linewidth=1.5, zorder=3)
        ax.set(xlabel=name, ylabel=metric)
    return axs


def plot_accuracy_against_seconds(board, on_front, ax=None):
    """Draw accuracy over seconds, a dot a configuration; join and name those on the Pareto front.

    Args:
        board: Frame, a row a configuration, with seconds and mean.
        on_front: (n,) bool, the configurations that no other beats in both.
        ax: Axes to draw into, or None for a new figure.

    Returns:
        The Axes.
    """
    ax = ax or plt.subplots(figsize=(8, 4.5))[1]
    front = board[on_front].sort_values("seconds")
    ax.plot(board["seconds"], board["mean"], "o", color=NEUTRAL_COLOR, markersize=8)
    ax.step(front["seconds"], front["mean"], "o-", where="post", color=CORRECT_COLOR, markersize=8)
    ax.set(xlabel="training (s)", ylabel="validation accuracy")
    ax.margins(x=0.4, y=0.1)  # room for the names, which stand where a front has neither line nor dots
    for setting, row in front.iterrows():
        place = (row["seconds"], row["mean"]), (-7, 4), "data", "offset points"
        ax.annotate(setting, *place, ha="right", fontsize=9, color=CORRECT_COLOR)
    return ax


def save_figure(axes, path):
    """Write a figure as a PNG without a machine's traces.

    Args:
        axes: One Axes of the figure, or an array of them.
        path: The file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.ravel(axes)[0].figure.savefig(path, metadata={"Software": None})
