"""Each figure shows the numbers it is given, is labelled, and can be drawn into given Axes."""

import ast
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
HISTORY = pd.DataFrame(
    RANDOM.random((4, 5)), pd.Index([1, 2, 3, 4], name="epoch"),
    ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"],
)  # fmt: skip
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
SWEPT = {
    "dropout": pd.DataFrame({"dropout": [0.0, 0.0, 0.2], "score": [0.7, 0.9, 0.6]}),
    "rate": pd.DataFrame(
        {"rate": [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064], "score": np.linspace(0.6, 0.9, 7)}
    ),
}
CALIBRATION = {
    name: pd.DataFrame({"confidence": [0.35, 0.95], "accuracy": accuracy, "images": [100, 900]})
    for name, accuracy in {"before": [0.5, 0.99], "after": [0.3, 0.95]}.items()
}
CURVES = {"shift (pixels)": pd.Series([0.9, 0.5], [0, 4]), "contrast (factor)": pd.Series([0.9, 0.4], [1, 0.2])}
PLACES = np.array([[0.0, 0], [0.001, 0], [1, 0], [0, 1], [1, 1]])
Y = np.array([0, 1, 2, 3, 4])
Y_PROB = np.zeros((5, 10))
Y_PROB[:, 7:] = [0.3, 0.2, 0.1]
Y_PROB[0, 0] = Y_PROB[4, 4] = 0.4  # right
Y_PROB[1, 1] = 0.25  # wrong, the true class is second

ONE = {
    "class_counts": lambda **ax: plots.plot_class_counts(COUNTS, **ax),
    "value_histogram": lambda **ax: plots.plot_histograms(VALUES, "weight", ["first", "second"], **ax),
    "learning_rate": lambda **ax: plots.plot_learning_rate([0, 0.5, 1], [0.1, 0.3, 0], **ax),
    "confusion_matrix": lambda **ax: plots.plot_confusion_matrix(MATRIX, NAMES, **ax),
    "per_class": lambda **ax: plots.plot_per_class(SCORES, **ax),
    "intervals": lambda **ax: plots.plot_intervals(BOARD, "accuracy", 0.8, **ax),
    "reliability": lambda **ax: plots.plot_reliability_diagram(CALIBRATION, **ax),
    "embedding": lambda **ax: plots.plot_embedding(PLACES, IMAGES, Y, NAMES, **ax),
    "accuracy_against_seconds": lambda **ax: plots.plot_accuracy_against_seconds(BOARD, [True, True, True], **ax),
}
SEVERAL = {
    "pixel_histograms": lambda **axs: plots.plot_pixel_histograms(SHARES, EDGES, **axs),
    "learning_curves": lambda **axs: plots.plot_learning_curves(HISTORY, 3, **axs),
    "loss_curves": lambda **axs: plots.plot_loss_curves({"few": HISTORY, "many": LATE}, **axs),
    "layer_costs": lambda **axs: plots.plot_layer_costs(COSTS, **axs),
    "accuracy_against_strength": lambda **axs: plots.plot_robustness(CURVES, **axs),
    "effects": lambda **axs: plots.plot_effects(SWEPT, "score", **axs),
}
PICTURES = {
    "heat_grid": lambda: plots.plot_heat_maps(IMAGES, np.linspace(0, 1, 5)[:, None, None] * np.ones((28, 28)), columns=3),
    "image_grid": lambda: plots.plot_images(IMAGES, titles=list("vwxyz"), columns=3),
    "predictions": lambda: plots.plot_predictions(IMAGES, Y, Y_PROB, NAMES, columns=2),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_every_public_function_is_tried_here():
    public = {name for name, f in inspect.getmembers(plots, inspect.isfunction) if f.__module__ == plots.__name__}
    assert {name for name in public if name[0] != "_"} == {*ONE, *SEVERAL, *PICTURES, "use_style", "save"}


def test_plots_imports_no_module_of_the_package_and_nothing_that_computes_metrics():
    nodes = list(ast.walk(ast.parse(inspect.getsource(plots))))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {"math", "pathlib", "matplotlib", "numpy", "seaborn"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", (ONE | SEVERAL).values(), ids=ONE | SEVERAL)
def test_a_figure_returns_its_axes_and_both_data_axes_are_labelled_or_name_categories(draw):
    with mpl.rc_context():
        plots.use_style()
        axs = np.ravel(draw())
        axs[0].figure.canvas.draw()
    for ax in axs:
        assert isinstance(ax, plt.Axes)
        assert ax.has_data()
        for axis, siblings in ((ax.xaxis, ax.get_shared_x_axes()), (ax.yaxis, ax.get_shared_y_axes())):
            axes = [getattr(twin, f"{axis.axis_name}axis") for twin in siblings.get_siblings(ax)]
            categories = {text.get_text() for axis in axes for text in axis.get_ticklabels()}
            assert any(axis.get_label_text() for axis in axes) or categories in ({*NAMES}, {*COSTS.index})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_pictures_have_no_ticks_that_would_need_a_label(draw):
    axs = draw()
    axs.flat[0].figure.canvas.draw()
    assert [(*ax.get_xticks(), *ax.get_yticks()) for ax in axs.flat] == [()] * axs.size


@pytest.mark.mpl_image_compare(baseline_dir="baseline", style="default", tolerance=4, savefig_kwargs={"dpi": 60})
@pytest.mark.parametrize("name", ONE | SEVERAL | PICTURES)
def test_a_figure_looks_as_it_did(name):
    """Against a stored image. After a wanted change: pytest tests/test_plots.py --mpl-generate-path=tests/baseline"""
    with mpl.rc_context():
        plots.use_style()
        return np.ravel((ONE | SEVERAL | PICTURES)[name]())[0].figure


@pytest.mark.parametrize("draw", ONE.values(), ids=ONE)
def test_a_figure_is_drawn_into_the_given_axes(draw):
    fig, ax = plt.subplots()
    assert draw(ax=ax) is ax
    assert ax.has_data()
    assert plt.get_fignums() == [fig.number]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_plots_are_drawn_into_the_given_array_of_axes(name):
    fig, axs = plt.subplots(*((2, 5) if name == "pixel_histograms" else (1, 2)))
    assert SEVERAL[name](axs=axs) is axs
    assert all(ax.has_data() for ax in axs.flat)
    assert plt.get_fignums() == [fig.number]


def test_image_grid_shows_each_image_under_its_title_and_leaves_the_rest_empty():
    axs = plots.plot_images(IMAGES[..., None], titles=list("vwxyz"), columns=3, row_labels=["first", "second"])
    assert axs.shape == (2, 3)
    for ax, image, title in zip(axs.flat, IMAGES, "vwxyz", strict=False):
        assert_array_equal(ax.images[0].get_array(), image)
        assert ax.get_title() == title
    assert not axs[1, 2].has_data()
    assert [ax.get_ylabel() for ax in axs[:, 0]] == ["first", "second"]


@pytest.mark.parametrize(
    ("options", "limits"),
    [({}, [(0, 8), (0, 8)]), ({"shared": False}, [(0, 2), (0, 8)]),
     ({"diverging": True}, [(-8, 8), (-8, 8)]), ({"diverging": True, "shared": False}, [(-2, 2), (-8, 8)])],
)  # fmt: skip
def test_image_grid_scales_colours_over_all_images_or_each_and_around_0(options, limits):
    axs = plots.plot_images(np.array([[[0, 1], [1, 2]], [[0, 3], [7, 8]]], "uint8"), **options)
    assert [ax.images[0].get_clim() for ax in axs.flat[:2]] == limits


def test_image_grid_shows_images_of_different_sizes():
    axs = plots.plot_images([np.ones((3, 5)), np.full((7, 2, 1), 4)], columns=2)
    assert [ax.images[0].get_array().shape for ax in axs[0]] == [(3, 5), (7, 2)]
    assert [ax.images[0].get_clim() for ax in axs[0]] == [(0, 4)] * 2


def test_class_counts_draws_a_bar_a_class_and_part_from_the_top_down():
    ax = plots.plot_class_counts(COUNTS)
    for bars, part in zip(ax.containers, COUNTS, strict=True):
        assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, count) for count in COUNTS[part]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(COUNTS)
    assert [text.get_text() for text in ax.get_yticklabels()] == NAMES
    assert ax.yaxis_inverted()


def test_pixel_histograms_draws_the_given_shares_between_the_given_edges():
    for ax, name in zip(plots.plot_pixel_histograms(SHARES, EDGES).flat, NAMES, strict=True):
        assert ax.get_title() == name
        assert_array_equal(ax.patches[0].get_data().values, SHARES.loc[name])
        assert_array_equal(ax.patches[0].get_data().edges, EDGES)


def test_value_histogram_counts_every_value_in_bins_common_to_all_sets():
    ax = plots.plot_histograms(VALUES, "weight", ["first", "second"])
    outlines = {patch.get_label(): patch.get_xy() for patch in ax.patches}
    assert {name: xy[1:-1:2, 1].sum() for name, xy in outlines.items()} == {"first": 100, "second": 70}
    assert_array_equal(outlines["first"][:, 0], outlines["second"][:, 0])
    assert ax.get_xlabel() == "weight"


@pytest.mark.parametrize("best_epoch", [None, 3])
def test_learning_curves_draws_validation_dashed_over_the_epochs_and_marks_the_kept_one(best_epoch):
    for ax, name in zip(plots.plot_learning_curves(HISTORY, best_epoch), ("loss", "accuracy"), strict=True):
        assert [line.get_linestyle() for line in ax.lines] == ["-", "--"] + [":"] * bool(best_epoch)
        for line, column in zip(ax.lines, (name, f"val_{name}"), strict=False):
            assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
            assert_array_equal(line.get_ydata(), HISTORY[column])
        assert [line.get_label() for line in ax.lines[:2]] == ["training", "validation"]
        assert [list(line.get_xdata()) for line in ax.lines[2:]] == [[3, 3]] * bool(best_epoch)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", name)


def test_loss_curves_draws_a_training_an_axes_and_marks_its_lowest_validation_loss():
    early = pd.DataFrame({"loss": [1.0, 0.5, 0.1, 0.0], "val_loss": [0.8, 2.0, 2.5, 3.0]}, index=[1, 2, 3, 4])
    axs = plots.plot_loss_curves({"few": early, "many": LATE})
    assert [ax.get_title() for ax in axs] == ["few", "many"]
    for ax, history, best in zip(axs, (early, LATE), (1, 3), strict=True):
        for line, column in zip(ax.lines, ("loss", "val_loss"), strict=False):
            assert_array_equal(line.get_xdata(), history.index)
            assert_array_equal(line.get_ydata(), history[column])
        assert [line.get_linestyle() for line in ax.lines] == ["-", "--", ":"]
        assert list(ax.lines[2].get_xdata()) == [best, best]
        assert [text.get_text() for text in ax.texts] == [f"kept: epoch {best}"]
        assert ax.get_ylim() == (0, pytest.approx(3.15)), "one scale for all"


def test_learning_rate_draws_the_planned_rates_from_0_up():
    ax = plots.plot_learning_rate([0, 0.5, 1], [0.1, 0.3, 0])
    assert_array_equal(ax.lines[0].get_xydata(), [[0, 0.1], [0.5, 0.3], [1, 0]])
    assert ax.get_ylim()[0] == 0


@pytest.mark.parametrize("given", [False, True])
def test_layer_costs_draws_parameters_and_multiply_adds_from_the_first_layer_down(given):
    axs = plots.plot_layer_costs(COSTS, plt.subplots(1, 2)[1] if given else None)
    assert [[bar.get_width() for bar in ax.containers[0]] for ax in axs] == [[10, 0, 30], [5, 7, 0]]
    assert [ax.get_xlabel() for ax in axs] == ["parameters", "multiply-adds"]
    assert [text.get_text() for text in axs[0].get_yticklabels()] == ["x", "y", "z"]
    assert all(ax.yaxis_inverted() for ax in axs)


def test_confusion_matrix_writes_each_number_at_its_true_row_and_predicted_column():
    ax = plots.plot_confusion_matrix(MATRIX, NAMES)
    written = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert written == {(j + 0.5, i + 0.5): MATRIX[i, j] for i in range(10) for j in range(10)}
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("true class", "predicted class")
    for axis in (ax.yaxis, ax.xaxis):
        assert [text.get_text() for text in axis.get_ticklabels()] == NAMES
        assert_array_equal(axis.get_ticklocs(), np.arange(10) + 0.5)
    assert ax.yaxis_inverted()
    assert_array_equal(np.reshape(ax.collections[0].get_array(), (10, 10)), MATRIX * (1 - np.eye(10)))


def test_per_class_puts_each_dot_at_its_class():
    ax = plots.plot_per_class(SCORES)
    assert [line.get_label() for line in ax.lines] == ["precision", "recall", "F1"]
    assert {text.get_text(): row for text, row in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)} == {
        name: row for row, name in enumerate(NAMES)
    }
    for line, column in zip(ax.lines, ("precision", "recall", "f1"), strict=True):
        assert_array_equal(line.get_xdata(), SCORES[column])
        assert_array_equal(line.get_ydata(), range(10))


@pytest.mark.parametrize(
    ("i", "texts", "colours", "shares"),
    [(0, ["A 40%", "H 30%", "I 20%"], [plots.CORRECT_COLOR, plots.NEUTRAL_COLOR, plots.NEUTRAL_COLOR], [0.4, 0.3, 0.2]),
     (1, ["H 30%", "B 25%", "I 20%"], [plots.WRONG_COLOR, plots.CORRECT_COLOR, plots.NEUTRAL_COLOR], [0.3, 0.25, 0.2]),
     (3, ["H 30%", "I 20%", "J 10%"], [plots.WRONG_COLOR, plots.NEUTRAL_COLOR, plots.NEUTRAL_COLOR], [0.3, 0.2, 0.1])],
    ids=["right", "second choice", "not among three"],
)  # fmt: skip
def test_predictions_colours_right_and_wrong_choices_beside_the_image(i, texts, colours, shares):
    axs = plots.plot_predictions(IMAGES, Y, Y_PROB, NAMES, columns=2)
    assert axs.shape == (3, 4)
    picture, bars = axs.reshape(-1, 2)[i]
    assert_array_equal(picture.images[0].get_array(), IMAGES[i])
    assert picture.get_title() == NAMES[i]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars.patches] == colours
    assert_allclose([bar.get_width() for bar in bars.patches], shares)
    assert [text.get_text() for text in bars.texts] == texts


def test_intervals_colours_what_is_told_apart_from_the_baseline_from_the_first_row_down():
    ax = plots.plot_intervals(BOARD, "accuracy", 0.8)
    bars, dots = ax.lines[0:6:2], ax.lines[1:6:2]
    assert [tuple(bar.get_xdata()) for bar in bars[:2]] == [(0.85, 0.95), (0.6, 0.75)]
    assert [(*dot.get_xdata(), *dot.get_ydata()) for dot in dots] == [(0.9, 0), (0.7, 1), (0.8, 2)]
    assert [dot.get_color() for dot in dots] == [plots.CORRECT_COLOR, plots.WRONG_COLOR, plots.NEUTRAL_COLOR], "no interval tells nothing"
    assert ax.get_ylim() == (2.5, -0.5) and [t.get_text() for t in ax.get_yticklabels()] == list("xyz")


@pytest.mark.filterwarnings("error")
def test_intervals_of_nothing_are_empty_axes_without_a_warning():
    assert not plots.plot_intervals(BOARD[:0], "accuracy", 0.8).get_yticklabels()


def test_effects_draws_a_dot_a_run_and_the_mean_of_each_value_or_a_scatter_on_a_logarithmic_axis():
    few, many = np.ravel(plots.plot_effects(SWEPT, "score"))
    assert [text.get_text() for text in few.get_xticklabels()] == ["0.0", "0.2"]
    assert_allclose(few.lines[0].get_ydata(), [0.8, 0.6])
    assert_allclose(np.concatenate([c.get_offsets()[:, 1] for c in few.collections]), [0.7, 0.9, 0.6])
    assert many.get_xscale() == "log" and len(many.collections[0].get_offsets()) == 7


def test_accuracy_against_seconds_joins_the_front_in_order_of_time_and_names_every_setting():
    ax = plots.plot_accuracy_against_seconds(BOARD, np.array([True, True, False]))
    assert_array_equal(ax.lines[1].get_xydata(), [[5, 0.7], [30, 0.9]])
    assert {text.get_text(): to_hex(text.get_color()).upper() == plots.CORRECT_COLOR for text in ax.texts} == {
        "x": True, "y": True, "z": False,
    }  # fmt: skip


def test_heat_grid_lays_more_orange_where_it_is_hotter_and_none_at_0():
    heats = np.zeros((1, 28, 28))
    heats[0, 3, 5], heats[0, 4, 5] = 1, 0.5
    picture, layer = plots.plot_heat_maps(IMAGES[:1], heats, columns=1).flat[0].images
    assert_allclose(picture.get_array(), IMAGES[0])
    colors = layer.get_array()
    assert to_hex(colors[3, 5, :3]) == plots.WRONG_COLOR.lower() and colors[3, 5, 3] == 2 * colors[4, 5, 3] > 0
    assert colors[..., 3].sum() == pytest.approx(1.5 * colors[3, 5, 3])


def test_reliability_puts_accuracy_over_confidence_beside_the_diagonal():
    ax = plots.plot_reliability_diagram(CALIBRATION)
    diagonal, *lines = ax.lines
    assert_allclose(diagonal.get_xydata(), [[0, 0], [1, 1]])
    for line, (name, table) in zip(lines, CALIBRATION.items(), strict=True):
        assert line.get_label() == name
        assert_allclose(line.get_xydata(), table[["confidence", "accuracy"]])
    few, many = ax.collections[0].get_sizes()
    assert many == pytest.approx(9 * few), "a dot's area goes with its images"


def test_accuracy_against_strength_has_the_strongest_on_the_right():
    axs = plots.plot_robustness({**CURVES, "blur (pixels)": CURVES["shift (pixels)"]}, columns=2)
    rising, falling = axs[0]
    assert_allclose(rising.lines[0].get_xydata(), [[0, 0.9], [4, 0.5]])
    assert not rising.xaxis_inverted() and falling.xaxis_inverted()
    assert falling.get_xlabel() == "contrast (factor)" and axs[1, 0].axison and not axs[1, 1].axison


def test_embedding_shows_an_image_where_there_is_room_and_each_class_name_at_its_median():
    ax = plots.plot_embedding(PLACES, IMAGES, Y, NAMES)
    assert len(ax.images) == 4, "the second lies upon the first"
    assert_allclose(ax.images[1].get_array(), IMAGES[2])
    left, right, low, high = ax.images[1].get_extent()
    assert_allclose([(left + right) / 2, (low + high) / 2], PLACES[2])
    named = {text.get_text(): text.get_position() for text in ax.texts}
    assert named.keys() == set("ABCDE") and named["C"] == (1, 0)


def test_use_style_sets_the_projects_look():
    with mpl.rc_context():
        plots.use_style()
        assert (mpl.rcParams["axes.spines.top"], mpl.rcParams["image.cmap"]) == (False, "gray_r")
        assert [to_hex(f"C{i}").upper() for i in range(2)] == [plots.CORRECT_COLOR, plots.WRONG_COLOR]


@pytest.mark.parametrize("draw", [ONE["per_class"], SEVERAL["learning_curves"]])
def test_save_makes_the_folder_and_writes_a_png_that_names_no_software(draw, tmp_path):
    path = tmp_path / "figures" / "deep" / "figure.png"
    plots.save_figure(draw(), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert {"Software", "Creation Time", "Author"}.isdisjoint(image.info)
        assert min(image.size) > 100
