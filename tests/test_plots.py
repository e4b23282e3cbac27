"""Each figure shows the numbers that it is given. How the notebooks' figures look is compared with the stored ones."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from fmnist_utils import plots

plt.switch_backend("Agg")
RANDOM = np.random.default_rng(0)
NAMES = list("ABCDEFGHIJ")
IMAGES = RANDOM.random((5, 28, 28))
MATRIX = RANDOM.permutation(100).reshape(10, 10)
HISTORY = pd.DataFrame(RANDOM.random((4, 4)), [1, 2, 3, 4], ["loss", "accuracy", "val_loss", "val_accuracy"])
BOARD = pd.DataFrame({"mean": [0.9, 0.7, 0.8], "low": [0.85, 0.6, np.nan], "high": [0.95, 0.75, np.nan]}, list("xyz"))
CALIBRATION = {
    name: pd.DataFrame({"confidence": [0.35, 0.95], "accuracy": accuracy, "images": [100, 900]})
    for name, accuracy in {"before": [0.5, 0.99], "after": [0.3, 0.95]}.items()
}
Y, Y_PROB = np.array([0, 1, 2, 3, 4]), np.zeros((5, 10))
Y_PROB[:, 7:] = [0.3, 0.2, 0.1]
Y_PROB[0, 0] = Y_PROB[4, 4] = 0.4  # right
Y_PROB[1, 1] = 0.25  # wrong, the true class is second


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_images_under_their_titles_in_rows():
    axs = plots.plot_images(IMAGES[..., None], titles=list("vwxyz"), columns=3, row_labels=["first", "second"])
    assert axs.shape == (2, 3) and not axs[1, 2].has_data()
    for ax, image, title in zip(axs.flat, IMAGES, "vwxyz", strict=False):
        assert_array_equal(ax.images[0].get_array(), image)
        assert ax.get_title() == title and ax.images[0].get_cmap().name == "gray_r"
    assert [ax.get_ylabel() for ax in axs[:, 0]] == ["first", "second"]
    small, large = (plots.plot_images(IMAGES, size=size)[0, 0].figure.get_size_inches() for size in (1, 2))
    assert_allclose(large, 2 * small)


@pytest.mark.parametrize(
    ("options", "limits"),
    [({}, [(0, 8), (0, 8)]), ({"shared": False}, [(0, 2), (0, 8)]),
     ({"diverging": True}, [(-8, 8), (-8, 8)]), ({"diverging": True, "shared": False}, [(-2, 2), (-8, 8)])],
)  # fmt: skip
def test_images_colour_scale(options, limits):
    axs = plots.plot_images([np.array([[0, 1, 2]], "uint8"), np.array([[0, 3], [7, 8]], "uint8")], **options)
    assert [ax.images[0].get_clim() for ax in axs.flat[:2]] == limits
    assert [ax.images[0].get_array().shape for ax in axs.flat[:2]] == [(1, 3), (2, 2)], "sizes may differ"


@pytest.mark.parametrize("best_epoch", [None, 3])
def test_learning_curves_with_and_without_a_kept_epoch(best_epoch):
    for ax, name in zip(plots.plot_learning_curves(HISTORY, best_epoch), ("loss", "accuracy"), strict=True):
        assert [line.get_linestyle() for line in ax.lines] == ["-", "--"] + [":"] * bool(best_epoch)
        for line, column in zip(ax.lines, (name, f"val_{name}"), strict=False):
            assert_array_equal(line.get_xydata().T, [[1, 2, 3, 4], HISTORY[column]])
        assert [line.get_label() for line in ax.lines[:2]] == ["training", "validation"]
        assert [list(line.get_xdata()) for line in ax.lines[2:]] == [[3, 3]] * bool(best_epoch)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", name)


def test_confusion_matrix_has_true_rows_and_predicted_columns():
    ax = plots.plot_confusion_matrix(MATRIX, NAMES)
    written = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert written == {(j + 0.5, i + 0.5): MATRIX[i, j] for i in range(10) for j in range(10)}
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("true class", "predicted class")
    for axis in (ax.yaxis, ax.xaxis):
        assert labels(axis) == NAMES
        assert_array_equal(axis.get_ticklocs(), np.arange(10) + 0.5)
    assert ax.yaxis_inverted()
    assert_array_equal(np.reshape(ax.collections[0].get_array(), (10, 10)), MATRIX * (1 - np.eye(10)))


@pytest.mark.parametrize(
    ("i", "texts", "colours", "shares"),
    [(0, ["A 40%", "H 30%", "I 20%"], [plots.CORRECT_COLOR, plots.NEUTRAL_COLOR, plots.NEUTRAL_COLOR], [0.4, 0.3, 0.2]),
     (1, ["H 30%", "B 25%", "I 20%"], [plots.WRONG_COLOR, plots.CORRECT_COLOR, plots.NEUTRAL_COLOR], [0.3, 0.25, 0.2]),
     (3, ["H 30%", "I 20%", "J 10%"], [plots.WRONG_COLOR, plots.NEUTRAL_COLOR, plots.NEUTRAL_COLOR], [0.3, 0.2, 0.1])],
    ids=["right", "second choice", "not among three"],
)  # fmt: skip
def test_predictions_beside_their_image(i, texts, colours, shares):
    axs = plots.plot_predictions(IMAGES, Y, Y_PROB, NAMES, columns=2)
    assert axs.shape == (3, 4)
    picture, bars = axs.reshape(-1, 2)[i]
    assert_array_equal(picture.images[0].get_array(), IMAGES[i])
    assert picture.get_title() == NAMES[i]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars.patches] == colours
    assert_allclose([bar.get_width() for bar in bars.patches], shares)
    assert [text.get_text() for text in bars.texts] == texts


def test_intervals_coloured_by_their_side_of_the_baseline():
    ax = plots.plot_intervals(BOARD, "accuracy", 0.8)
    bars, dots = ax.lines[0:6:2], ax.lines[1:6:2]
    assert [tuple(bar.get_xdata()) for bar in bars[:2]] == [(0.85, 0.95), (0.6, 0.75)]
    assert [(*dot.get_xdata(), *dot.get_ydata()) for dot in dots] == [(0.9, 0), (0.7, 1), (0.8, 2)]
    assert [dot.get_color() for dot in dots] == [plots.CORRECT_COLOR, plots.WRONG_COLOR, plots.NEUTRAL_COLOR]
    assert ax.get_ylim() == (2.5, -0.5) and labels(ax.yaxis) == list("xyz") and ax.get_xlabel() == "accuracy"
    assert not plots.plot_intervals(BOARD[:0], "accuracy", 0.8).get_yticklabels()


def test_reliability_diagram_has_accuracy_over_confidence():
    ax = plots.plot_reliability_diagram(CALIBRATION)
    assert_allclose(ax.lines[0].get_xydata(), [[0, 0], [1, 1]])
    for line, (name, table) in zip(ax.lines[1:], CALIBRATION.items(), strict=True):
        assert line.get_label() == name
        assert_allclose(line.get_xydata(), table[["confidence", "accuracy"]])
    assert ax.get_xlabel().startswith("confidence") and ax.get_ylabel().startswith("accuracy")
    few, many = ax.collections[0].get_sizes()
    assert many == pytest.approx(9 * few), "a dot's area goes with its images"


@pytest.mark.parametrize("several", [False, True])
def test_save_figure_makes_the_folder_and_names_no_software(several, tmp_path):
    path = tmp_path / "figures" / "deep" / "figure.png"
    plots.save_figure(plt.subplots(1, 1 + several)[1], path)
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 100
        assert {"Software", "Creation Time", "Author"}.isdisjoint(image.info)
