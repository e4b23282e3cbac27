"""Parameters: what is allowed passes unchanged; what is not is refused with its name, its value and what to write."""

import re

import numpy as np
import pytest
import yaml
from shipped import shipped

from fmnist_utils import parameters


@pytest.mark.parametrize("path", shipped("params/*.yaml"), ids=lambda path: path.name)
def test_shipped_files(path):
    """They are allowed and come back in their order."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(parameters.check_parameters(values).items()) == list(values.items())


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 0), ("seed", 2**31 - 1), ("train_size", 0), ("train_size", 100), ("validation_fraction", 0.01),
     ("learning_rate", 1.0), ("dropout", 0.0), ("filters", [1, 2, 3, 2048]), ("run_name", "a.b_c-1"),
     ("runs_dir", "/elsewhere"), ("batch_norm", False), ("max_shift", 0), ("max_shift", 8), ("weight_decay", 0.0),
     ("weight_decay", 1.0), ("downsampling", "max"), ("downsampling", "average"), ("downsampling", "stride"),
     ("augment", []), ("augment", ["erase", "flip", "shift"]), ("examples", 20)],
)  # fmt: skip
def test_value_up_to_the_limits(name, value):
    assert parameters.check_parameters({name: value}) == {name: value}


def test_whole_number_for_a_float():
    checked = parameters.check_parameters({"learning_rate": 1, "dropout": 0})
    assert repr(checked) == "{'learning_rate': 1.0, 'dropout': 0.0}"


def test_names_that_are_no_parameters():
    """They are left out, and the order is kept."""
    values = {"seed": 1, "np": np, "epochs": 2, "_": object(), "augment": [], "batch_size": 8}
    assert list(parameters.check_parameters(values)) == ["seed", "epochs", "augment", "batch_size"]


NO_PATH, ONE_TO_2048 = "and no path", "a list of whole numbers, 1 to 2048, one per block"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("run_name", name, NO_PATH)
     for name in ("../x", "a/b", "a\\b", "", "..", "/etc", ".work", "x\n", "x" * 101, "é", 7)]
    + [("filters", value, ONE_TO_2048) for value in ([], [0], [2049], [True], [8.0], ["8"], [[8]], (8,), 8, None)]
    + [("seed", value, "int, 0 to 2147483647") for value in (True, 1.0, "1", None, -1, 2**31)]
    + [("learning_rate", value, "float, more than 0, at most 1") for value in (0.0, 1.5, float("nan"), True, "fast")]
    + [("early_stopping", value, "bool, True or False") for value in (1, 0, "yes", None)]
    + [("augment", value, "a list of some of flip, shift, erase, each at most once; [] for none")
       for value in (["Flip"], ["flip", "flip"], [["flip"]], [1], True, None, ("flip",))]
    + [("train_size", 99, "0 (all) or at least 100"), ("train_size", -100, "0 (all) or at least 100"),
       ("validation_fraction", 0.0, "0.01 to 0.9"), ("validation_fraction", 0.95, "0.01 to 0.9"),
       ("epochs", 0, "1 to 10000"), ("batch_size", 1, "2 to 10000"), ("patience", 0, "1 to 10000 epochs"),
       ("kernel_size", 12, "1 to 11 pixels"), ("dropout", 1.0, "0 to less than 1"), ("dense_units", -1, "0 (no hidden"),
       ("label_smoothing", -0.1, "0 to less than 1"), ("max_shift", -1, "0 to 8 pixels"), ("max_shift", 9, "0 to 8"),
       ("max_shift", 1.0, "int, 0 to 8"), ("weight_decay", -0.1, "0 (none) to 1"), ("weight_decay", 1.1, "(none) to 1"),
       ("downsampling", "mean", "one of max, average, stride"),
       ("precision", "float16", "one of auto"), ("convs_per_block", [11], "1 to 10, one per block"),
       ("runs_dir", "", "a folder"), ("examples", 21, "1 to 20 pictures"), ("compare_on", "train", "validation or"),
       ("schedule", "linear", "one of one_cycle, cosine, constant"), ("pooling_head", "mean", "one of average, max")],
)  # fmt: skip
def test_bad_value(name, value, allowed):
    with pytest.raises(ValueError) as error:
        parameters.check_parameters({"epochs": 5, name: value})
    assert str(error.value).startswith(f"{name} = {value!r} ({type(value).__name__}): allowed is ")
    assert allowed in str(error.value)


@pytest.mark.parametrize(("value", "kind"), [(7, "int"), (1.5e10, "float"), (True, "bool")])
def test_text_that_papermill_reads_as_something_else(value, kind):
    with pytest.raises(ValueError, match=f"papermill's -p makes {kind} of it: write -r run_name"):
        parameters.check_parameters({"run_name": value})


@pytest.mark.parametrize(
    ("filters", "convs", "allowed"),
    [([8, 16], [1], "lists of one length"), ([8], [1, 1], "lists of one length"), ([8] * 5, [1] * 5, "at most 4")],
)
def test_blocks_that_do_not_fit_together(filters, convs, allowed):
    with pytest.raises(ValueError, match=re.escape(f"filters = {filters}")) as error:
        parameters.check_parameters({"filters": filters, "convs_per_block": convs})
    assert allowed in str(error.value)


@pytest.mark.parametrize(("text", "number"), [("1e-3", 0.001), ("5E-4", 0.0005), ("1e0", 1.0), ("1e+0", 1.0)])
def test_number_that_yaml_reads_as_text(text, number):
    """The error shows it in a form that YAML reads as a number."""
    assert yaml.safe_load(text) == text
    with pytest.raises(ValueError, match=rf"YAML reads {re.escape(text)} as text: write \S+$") as error:
        parameters.check_parameters({"learning_rate": text})
    assert yaml.safe_load(str(error.value).split("write ")[1]) == number


@pytest.mark.parametrize(
    ("name", "text", "write"),
    [("filters", "[8, 16]", "-y '{filters: [8, 16]}', or use a parameter file with -f"),
     ("augment", "flip_shift", "-y '{augment: [flip, shift]}', or"), ("augment", "none", "-y '{augment: []}', or"),
     ("augment", "flip, erase", "-y '{augment: [flip, erase]}', or"),
     ("batch_norm", "false", "-p batch_norm False"), ("early_stopping", "TRUE", "-p early_stopping True")],
)  # fmt: skip
def test_text_that_papermill_gives(name, text, write):
    """A list or a truth value that comes as text: the error has what to type instead."""
    with pytest.raises(ValueError, match=f"^{name} = ") as error:
        parameters.check_parameters({name: text})
    assert f"papermill's -p {'gives text' if '-y' in write else 'knows only'}" in str(error.value)
    assert f"write {write}" in str(error.value)
