"""Each figure shows the numbers that it is given, is labelled, and can be drawn into given Axes.

How the figures look together is compared with the stored notebooks, by figures.py.
"""

import inspect

import matplotlib as mpl
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
COLUMNS = ["loss", "accuracy", "val_loss", "val_accuracy"]
HISTORY = pd.DataFrame(RANDOM.random((4, 4)), pd.Index([1, 2, 3, 4], name="epoch"), COLUMNS)
EARLY = pd.DataFrame({"loss": [1.0, 0.5, 0.1, 0.0], "val_loss": [0.8, 2.0, 2.5, 3.0]}, index=[1, 2, 3, 4])
LATE = pd.DataFrame({"loss": [0.9, 0.8, 0.7], "val_loss": [0.9, 0.5, 0.4]}, index=[1, 2, 3])
SCORES = pd.DataFrame(RANDOM.random((10, 4)), NAMES, ["precision", "recall", "f1", "images"])
COUNTS = pd.DataFrame(RANDOM.integers(1, 900, (10, 2)), NAMES, ["training", "validation"])
COSTS = pd.DataFrame({"output": ["a", "b", "c"], "parameters": [10, 0, 30], "multiply_adds": [5, 7, 0]}, list("xyz"))
SHARES, EDGES = pd.DataFrame(RANDOM.dirichlet(np.ones(8), 10), NAMES), np.linspace(0, 256, 9)
VALUES = [RANDOM.random((20, 5)), 3 + RANDOM.random(70)]
BOARD = pd.DataFrame(
    {"mean": [0.9, 0.7, 0.8], "low": [0.85, 0.6, np.nan], "high": [0.95, 0.75, np.nan], "seconds": [30, 5, 20]},
    list("xyz"),
)
RATES = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064]
SWEPT = {
    "dropout": pd.DataFrame({"dropout": [0.0, 0.0, 0.2], "score": [0.7, 0.9, 0.6]}),
    "rate": pd.DataFrame({"rate": RATES, "score": np.linspace(0.6, 0.9, 7)}),
}
CALIBRATION = {
    name: pd.DataFrame({"confidence": [0.35, 0.95], "accuracy": accuracy, "images": [100, 900]})
    for name, accuracy in {"before": [0.5, 0.99], "after": [0.3, 0.95]}.items()
}
CURVES = {"shift (pixels)": pd.Series([0.9, 0.5], [0, 4]), "contrast (factor)": pd.Series([0.9, 0.4], [1, 0.2])}
PLACES = np.array([[0.0, 0], [0.001, 0], [1, 0], [0, 1], [1, 1]])
Y, Y_PROB = np.array([0, 1, 2, 3, 4]), np.zeros((5, 10))
Y_PROB[:, 7:] = [0.3, 0.2, 0.1]
Y_PROB[0, 0] = Y_PROB[4, 4] = 0.4  # right
Y_PROB[1, 1] = 0.25  # wrong, the true class is second
HEATS = np.linspace(0, 1, 5)[:, None, None] * np.ones((28, 28))

INTO_ONE_AXES = {
    plots.plot_class_counts: (COUNTS,),
    plots.plot_histograms: (VALUES, "weight", ["first", "second"]),
    plots.plot_learning_rate: ([0, 0.5, 1], [0.1, 0.3, 0]),
    plots.plot_confusion_matrix: (MATRIX, NAMES),
    plots.plot_per_class: (SCORES,),
    plots.plot_intervals: (BOARD, "accuracy", 0.8),
    plots.plot_reliability_diagram: (CALIBRATION,),
    plots.plot_embedding: (PLACES, IMAGES, Y, NAMES, ("first", "second")),
    plots.plot_accuracy_against_seconds: (BOARD, [True, True, True]),
}
INTO_SEVERAL = {
    plots.plot_pixel_histograms: (SHARES, EDGES),
    plots.plot_learning_curves: (HISTORY, 3),
    plots.plot_loss_curves: ({"few": EARLY, "many": LATE},),
    plots.plot_layer_costs: (COSTS,),
    plots.plot_robustness: (CURVES,),
    plots.plot_effects: (SWEPT, "score"),
}
PICTURES = {
    plots.plot_images: (IMAGES,),
    plots.plot_heat_maps: (IMAGES, HEATS),
    plots.plot_predictions: (IMAGES, Y, Y_PROB, NAMES),
}


def each(functions):
    return pytest.mark.parametrize("draw", functions, ids=lambda function: function.__name__)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_all_plots_are_tested_here():
    public = {f for name, f in inspect.getmembers(plots, inspect.isfunction) if name.startswith("plot_")}
    assert public == {*INTO_ONE_AXES, *INTO_SEVERAL, *PICTURES}, "add a new plot to one of the three tables"


@pytest.mark.filterwarnings("error")
@each(INTO_ONE_AXES | INTO_SEVERAL)
def test_axes_are_labelled_or_name_categories(draw):
    with mpl.rc_context():
        plots.use_style()
        axs = np.ravel(draw(*(INTO_ONE_AXES | INTO_SEVERAL)[draw]))
        axs[0].figure.canvas.draw()
    for ax in axs:
        assert isinstance(ax, plt.Axes) and ax.has_data()
        for axis, siblings in ((ax.xaxis, ax.get_shared_x_axes()), (ax.yaxis, ax.get_shared_y_axes())):
            axes = [getattr(twin, f"{axis.axis_name}axis") for twin in siblings.get_siblings(ax)]
            categories = {name for axis in axes for name in labels(axis)}
            assert any(axis.get_label_text() for axis in axes) or categories in ({*NAMES}, {*COSTS.index})


@each(INTO_ONE_AXES | INTO_SEVERAL | PICTURES)
def test_texts_lie_within_the_figure(draw):
    with mpl.rc_context():
        plots.use_style()
        figure = np.ravel(draw(*(INTO_ONE_AXES | INTO_SEVERAL | PICTURES)[draw]))[0].figure
        figure.canvas.draw()
    ticks = [text for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for text in axis.get_ticklabels(which="both")]
    for text in {*figure.findobj(mpl.text.Text)} - {*ticks}:
        box = text.get_window_extent()
        inside = min(box.x0, box.y0, figure.bbox.width - box.x1, figure.bbox.height - box.y1) > -1
        assert inside or not text.get_text() or not text.get_visible(), text.get_text()


@pytest.mark.filterwarnings("error")
@each(PICTURES)
def test_pictures_have_no_ticks(draw):
    axs = draw(*PICTURES[draw])
    axs.flat[0].figure.canvas.draw()
    assert [(*ax.get_xticks(), *ax.get_yticks()) for ax in axs.flat] == [()] * axs.size


@each(INTO_ONE_AXES)
def test_plot_into_given_axes(draw):
    fig, ax = plt.subplots()
    assert draw(*INTO_ONE_AXES[draw], ax=ax) is ax and ax.has_data()
    assert plt.get_fignums() == [fig.number]


@each(INTO_SEVERAL)
def test_plot_into_given_array_of_axes(draw):
    fig, axs = plt.subplots(*((2, 5) if draw is plots.plot_pixel_histograms else (1, 2)))
    assert draw(*INTO_SEVERAL[draw], axs=axs) is axs and all(ax.has_data() for ax in axs.flat)
    assert plt.get_fignums() == [fig.number]


def test_images_under_their_titles_in_rows():
    axs = plots.plot_images(IMAGES[..., None], titles=list("vwxyz"), columns=3, row_labels=["first", "second"])
    assert axs.shape == (2, 3) and not axs[1, 2].has_data()
    for ax, image, title in zip(axs.flat, IMAGES, "vwxyz", strict=False):
        assert_array_equal(ax.images[0].get_array(), image)
        assert ax.get_title() == title and ax.images[0].get_cmap().name == "gray_r"
    assert [ax.get_ylabel() for ax in axs[:, 0]] == ["first", "second"]


def test_images_size_and_colour_bar():
    small, large = (plots.plot_images(IMAGES, size=size)[0, 0].figure for size in (1, 2))
    assert_allclose(large.get_size_inches(), 2 * small.get_size_inches())
    barred = plots.plot_images(IMAGES, colorbar="weight")[0, 0].figure
    assert [ax.get_ylabel() for ax in barred.axes if ax.get_label() == "<colorbar>"] == ["weight"]


def test_heat_maps_under_their_titles_in_rows():
    axs = plots.plot_heat_maps(IMAGES, HEATS, titles=list("vwxyz"), columns=3, row_labels=["first", "second"])
    assert axs.shape == (2, 3)
    assert [ax.get_title() for ax in axs.flat] == [*"vwxyz", ""]
    assert [ax.get_ylabel() for ax in axs[:, 0]] == ["first", "second"]


@pytest.mark.parametrize(
    ("options", "limits"),
    [({}, [(0, 8), (0, 8)]), ({"shared": False}, [(0, 2), (0, 8)]),
     ({"diverging": True}, [(-8, 8), (-8, 8)]), ({"diverging": True, "shared": False}, [(-2, 2), (-8, 8)])],
)  # fmt: skip
def test_images_colour_scale(options, limits):
    axs = plots.plot_images([np.array([[0, 1, 2]], "uint8"), np.array([[0, 3], [7, 8]], "uint8")], **options)
    assert [ax.images[0].get_clim() for ax in axs.flat[:2]] == limits
    assert [ax.images[0].get_array().shape for ax in axs.flat[:2]] == [(1, 3), (2, 2)], "sizes may differ"


def test_class_counts_from_the_top_down():
    ax = plots.plot_class_counts(COUNTS)
    for bars, part in zip(ax.containers, COUNTS, strict=True):
        assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, count) for count in COUNTS[part]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(COUNTS)
    assert labels(ax.yaxis) == NAMES and ax.yaxis_inverted()


def test_pixel_histograms_of_each_class():
    for ax, name in zip(plots.plot_pixel_histograms(SHARES, EDGES).flat, NAMES, strict=True):
        assert ax.get_title() == name
        assert_array_equal(ax.patches[0].get_data().values, SHARES.loc[name])
        assert_array_equal(ax.patches[0].get_data().edges, EDGES)


def test_histograms_count_in_common_bins():
    ax = plots.plot_histograms(VALUES, "weight", ["first", "second"])
    outlines = {patch.get_label(): patch.get_xy() for patch in ax.patches}
    assert {name: xy[1:-1:2, 1].sum() for name, xy in outlines.items()} == {"first": 100, "second": 70}
    assert_array_equal(outlines["first"][:, 0], outlines["second"][:, 0])


@pytest.mark.parametrize("best_epoch", [None, 3])
def test_learning_curves_with_and_without_a_kept_epoch(best_epoch):
    for ax, name in zip(plots.plot_learning_curves(HISTORY, best_epoch), ("loss", "accuracy"), strict=True):
        assert [line.get_linestyle() for line in ax.lines] == ["-", "--"] + [":"] * bool(best_epoch)
        for line, column in zip(ax.lines, (name, f"val_{name}"), strict=False):
            assert_array_equal(line.get_xydata().T, [[1, 2, 3, 4], HISTORY[column]])
        assert [line.get_label() for line in ax.lines[:2]] == ["training", "validation"]
        assert [list(line.get_xdata()) for line in ax.lines[2:]] == [[3, 3]] * bool(best_epoch)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", name)


def test_loss_curves_mark_each_lowest_validation_loss():
    axs = plots.plot_loss_curves({"few": EARLY, "many": LATE})
    assert [ax.get_title() for ax in axs] == ["few", "many"]
    for ax, history, best in zip(axs, (EARLY, LATE), (1, 3), strict=True):
        for line, column in zip(ax.lines, ("loss", "val_loss"), strict=False):
            assert_array_equal(line.get_xydata().T, [history.index, history[column]])
        assert [line.get_linestyle() for line in ax.lines] == ["-", "--", ":"]
        assert list(ax.lines[2].get_xdata()) == [best, best]
        assert [text.get_text() for text in ax.texts] == [f"lowest: epoch {best}"]
        assert ax.get_ylim() == (0, pytest.approx(3.15)), "one scale for all"


def test_learning_rate_from_0_up():
    ax = plots.plot_learning_rate([0, 0.5, 1], [0.1, 0.3, 0])
    assert_array_equal(ax.lines[0].get_xydata(), [[0, 0.1], [0.5, 0.3], [1, 0]])
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize("given", [False, True])
def test_layer_costs_from_the_first_layer_down(given):
    axs = plots.plot_layer_costs(COSTS, plt.subplots(1, 2)[1] if given else None)
    assert [[bar.get_width() for bar in ax.containers[0]] for ax in axs] == [[10, 0, 30], [5, 7, 0]]
    assert [ax.get_xlabel() for ax in axs] == ["parameters", "multiply-adds"]
    assert labels(axs[0].yaxis) == ["x", "y", "z"] and all(ax.yaxis_inverted() for ax in axs)


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


def test_per_class_puts_each_dot_at_its_class():
    ax = plots.plot_per_class(SCORES)
    assert [line.get_label() for line in ax.lines] == ["precision", "recall", "F1"]
    assert dict(zip(labels(ax.yaxis), ax.get_yticks(), strict=True)) == {name: row for row, name in enumerate(NAMES)}
    for line, column in zip(ax.lines, ("precision", "recall", "f1"), strict=True):
        assert_array_equal(line.get_xdata(), SCORES[column])
        assert_array_equal(np.round(line.get_ydata()), range(10))
    assert np.ptp([line.get_ydata()[0] for line in ax.lines]) > 0.3, "no mark may cover another"


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
    colours = [plots.CORRECT_COLOR, plots.WRONG_COLOR, plots.NEUTRAL_COLOR]  # without an interval nothing is told
    assert [dot.get_color() for dot in dots] == colours
    assert ax.get_ylim() == (2.5, -0.5) and labels(ax.yaxis) == list("xyz")


@pytest.mark.filterwarnings("error")
def test_intervals_of_an_empty_frame():
    assert not plots.plot_intervals(BOARD[:0], "accuracy", 0.8).get_yticklabels()


def test_effects_of_few_values_and_of_many():
    few, many = np.ravel(plots.plot_effects(SWEPT, "score"))
    assert labels(few.xaxis) == ["0.0", "0.2"]
    assert_allclose(few.lines[0].get_ydata(), [0.8, 0.6])
    assert_allclose(np.concatenate([c.get_offsets()[:, 1] for c in few.collections]), [0.7, 0.9, 0.6])
    assert many.get_xscale() == "log" and len(many.collections[0].get_offsets()) == 7


def test_accuracy_against_seconds_joins_the_front_in_order_of_time():
    ax = plots.plot_accuracy_against_seconds(BOARD, np.array([True, True, False]))
    assert_array_equal(ax.lines[1].get_xydata(), [[5, 0.7], [30, 0.9]])
    named = {text.get_text(): to_hex(text.get_color()).upper() == plots.CORRECT_COLOR for text in ax.texts}
    assert named == {"x": True, "y": True}


def test_heat_maps_are_more_orange_where_hotter():
    heats = np.zeros((1, 28, 28))
    heats[0, 3, 5], heats[0, 4, 5] = 1, 0.5
    picture, layer = plots.plot_heat_maps(IMAGES[:1], heats, columns=1).flat[0].images
    assert_allclose(picture.get_array(), IMAGES[0])
    colors = layer.get_array()
    assert to_hex(colors[3, 5, :3]) == plots.WRONG_COLOR.lower() and colors[3, 5, 3] == 2 * colors[4, 5, 3] > 0
    assert colors[..., 3].sum() == pytest.approx(1.5 * colors[3, 5, 3])


def test_reliability_diagram_has_accuracy_over_confidence():
    ax = plots.plot_reliability_diagram(CALIBRATION)
    diagonal, *lines = ax.lines
    assert_allclose(diagonal.get_xydata(), [[0, 0], [1, 1]])
    for line, (name, table) in zip(lines, CALIBRATION.items(), strict=True):
        assert line.get_label() == name
        assert_allclose(line.get_xydata(), table[["confidence", "accuracy"]])
    few, many = ax.collections[0].get_sizes()
    assert many == pytest.approx(9 * few), "a dot's area goes with its images"


def test_robustness_has_the_strongest_on_the_right():
    axs = plots.plot_robustness({**CURVES, "blur (pixels)": CURVES["shift (pixels)"]}, columns=2)
    rising, falling = axs[0]
    assert_allclose(rising.lines[0].get_xydata(), [[0, 0.9], [4, 0.5]])
    assert not rising.xaxis_inverted() and falling.xaxis_inverted()
    assert falling.get_xlabel() == "contrast (factor)" and axs[1, 0].axison and not axs[1, 1].axison


def test_embedding_shows_an_image_where_there_is_room():
    ax = plots.plot_embedding(PLACES, IMAGES, Y, NAMES)
    assert len(ax.images) == 4, "the second lies upon the first"
    assert_allclose(ax.images[1].get_array(), IMAGES[2])
    left, right, low, high = ax.images[1].get_extent()
    assert_allclose([(left + right) / 2, (low + high) / 2], PLACES[2])
    dots = {dots.get_label(): dots for dots in ax.collections}
    assert_array_equal(dots["C"].get_offsets(), [PLACES[2]])
    assert_allclose(dots["C"].get_facecolor()[0], ax.patches[1].get_edgecolor())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == NAMES


def test_use_style_sets_the_look_of_the_project():
    with mpl.rc_context():
        plots.use_style()
        assert (mpl.rcParams["axes.spines.top"], mpl.rcParams["image.cmap"]) == (False, "gray_r")
        assert [to_hex(f"C{i}").upper() for i in range(2)] == [plots.CORRECT_COLOR, plots.WRONG_COLOR]


@pytest.mark.parametrize("several", [False, True])
def test_save_figure_makes_the_folder_and_names_no_software(several, tmp_path):
    path = tmp_path / "figures" / "deep" / "figure.png"
    plots.save_figure(plt.subplots(1, 1 + several)[1], path)
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 100
        assert {"Software", "Creation Time", "Author"}.isdisjoint(image.info)
