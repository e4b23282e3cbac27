"""Parameters: what is allowed passes unchanged; what is not is refused with its name, its value and what is allowed."""

import numpy as np
import pytest

from fmnist_utils.parameters import check_parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 0), ("seed", 2**31 - 1), ("train_size", 0), ("train_size", 100), ("validation_fraction", 0.0),
     ("validation_fraction", 0.01), ("learning_rate", 1.0), ("dropout", 0.0), ("filters", [1, 2, 3, 2048]),
     ("run_name", "a.b_c-1"), ("runs_dir", "/elsewhere"), ("batch_norm", False), ("max_shift", 0), ("max_shift", 8),
     ("weight_decay", 0.0), ("weight_decay", 1.0), ("downsampling", "stride"), ("augment", []),
     ("augment", ["erase", "flip", "shift"])],
)  # fmt: skip
def test_value_up_to_the_limits(name, value):
    assert check_parameters({name: value}) == {name: value}


def test_names_that_are_no_parameters_are_left_out():
    """The order is kept, and a whole number serves for a float."""
    values = {"seed": 1, "np": np, "epochs": 2, "_": object(), "learning_rate": 1, "batch_size": 8}
    assert repr(check_parameters(values)) == "{'seed': 1, 'epochs': 2, 'learning_rate': 1.0, 'batch_size': 8}"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("run_name", name, "and no path") for name in ("../x", "a/b", "a\\b", "", "..", ".work", "x\n", "x" * 101, "é", 7)]
    + [("filters", value, "1 to 2048, one per block") for value in ([], [0], [2049], [True], [8.0], [[8]], (8,), None)]
    + [("seed", value, "int, 0 to 2147483647") for value in (True, 1.0, "1", None, -1, 2**31)]
    + [("learning_rate", value, "float, more than 0") for value in (0.0, 1.5, float("nan"), True, "1e-3")]
    + [("early_stopping", value, "bool, True or False") for value in (1, 0, "yes", None)]
    + [("augment", value, "some of flip, shift, erase, each at most once; [] for none")
       for value in (["Flip"], ["flip", "flip"], [["flip"]], [1], "flip", None)]
    + [("train_size", 99, "0 (all) or at least 100"), ("validation_fraction", 0.005, "0 (none), or 0.01 to 0.9"),
       ("epochs", 0, "1 to 10000"), ("batch_size", 1, "2 to 10000"), ("patience", 0, "1 to 10000 epochs"),
       ("kernel_size", 12, "1 to 11 pixels"), ("dropout", 1.0, "0 to less than 1"), ("dense_units", -1, "0 (no hidden"),
       ("label_smoothing", -0.1, "0 to less than 1"), ("max_shift", 9, "0 to 8 pixels"), ("weight_decay", 1.1, "to 1"),
       ("downsampling", "mean", "max_late"), ("precision", "float16", "one of auto"), ("convs_per_block", [11], "10"),
       ("runs_dir", "", "a folder"), ("compare_on", "train", "or test"), ("schedule", "linear", "one of one_cycle")],
)  # fmt: skip
def test_bad_value(name, value, allowed):
    with pytest.raises(ValueError) as error:
        check_parameters({"epochs": 5, name: value})
    assert str(error.value).startswith(f"{name} = {value!r} ({type(value).__name__}): allowed is ")
    assert allowed in str(error.value) and (value is not None or "With papermill give text by -r" in str(error.value))


@pytest.mark.parametrize(("filters", "convs"), [([8, 16], [1]), ([8], [1, 1]), ([8] * 5, [1] * 5)], ids=str)
def test_blocks_that_do_not_fit_together(filters, convs):
    with pytest.raises(ValueError, match=r"^filters = \[8.*: allowed are"):
        check_parameters({"filters": filters, "convs_per_block": convs})


@pytest.mark.parametrize(("size", "fraction", "most"), [(48_001, 0.2, 48000), (47_991, 0.2, 48000), (4e4, 0.4, 36000)])
def test_images_that_are_not_there(size, fraction, most):
    for there in (0, most - 10, most):
        assert check_parameters({"train_size": there, "validation_fraction": fraction})
    with pytest.raises(ValueError, match=f"^train_size = {size:.0f}: allowed are {most}, or {most - 10} at most"):
        check_parameters({"train_size": int(size), "validation_fraction": fraction})


def test_early_stopping_needs_validation_images():
    assert check_parameters({"validation_fraction": 0, "early_stopping": False})
    with pytest.raises(ValueError, match=r"^validation_fraction = 0: allowed with early_stopping = F"):
        check_parameters({"validation_fraction": 0, "early_stopping": True})


def test_notebooks_own_parameters():
    """All that a notebook declares counts, and nothing else; what papermill was given has to be declared."""
    own, values = 'seed: int = 1  # seed\nshape: str = "s"', {"seed": 2, "shape": "l", "epochs": 5, "seen": 1}
    for cells in (
        ["seen = 1", own, "x = seed"],
        [own, "# Parameters\nseed = 2"],
        ["# Parameters\n" + own],
        [own, "other: int = 1"],
        ["seed: int = 0\nold: int = 1", "seed: int = 2 * 6", own, "%%writefile own.yaml\nseed: 1"],
    ):
        assert check_parameters({**values, "In": cells}) == {"seed": 2, "shape": "l"}
    for late in ("seed: int = 2 * 6", own + "\nprint(seed)"):
        with pytest.raises(ValueError, match="the cell of parameters may hold only lines `name: type = value`"):
            check_parameters({**values, "In": [own, late]})
    with pytest.raises(ValueError, match=r"^this notebook has no parameter sed\. There are: seed, shape$"):
        check_parameters({**values, "In": [own, "# Parameters\nsed = 2"]})
