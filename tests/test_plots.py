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
HISTORY = pd.DataFrame(RANDOM.random((4, 4)), [1, 2, 3, 4], ["loss", "accuracy", "val_loss", "val_accuracy"])
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


def test_learning_curves():
    for ax, name in zip(plots.plot_learning_curves(HISTORY, 3), ("loss", "accuracy"), strict=True):
        assert [line.get_linestyle() for line in ax.lines] == ["-", "--", ":"]
        for line, column in zip(ax.lines, (name, f"val_{name}"), strict=False):
            assert_array_equal(line.get_xydata().T, [[1, 2, 3, 4], HISTORY[column]])
        assert [line.get_label() for line in ax.lines[:2]] == ["training", "validation"]
        assert list(ax.lines[2].get_xdata()) == [3, 3]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", name)
    assert len(plots.plot_learning_curves(HISTORY[["loss", "accuracy"]], 3)[0].lines) == 2, "without validation images"


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
