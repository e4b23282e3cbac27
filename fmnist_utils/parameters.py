"""What the notebooks' parameters may be: one table, and one check that notebooks, runner and sweeps share."""

import math
import re

from fmnist_utils._environment import declared_parameters, parameters_of

AUGMENTATIONS = ("flip", "shift", "erase")  # keys of the table of the same name in augmentation.py
HOW_TO_GIVE = (
    "With papermill give text by -r, numbers and True or False by -p, lists by -y '{name: [1, 2]}' or a file by -f; "
    "YAML wants 1.0e-3, since it reads 1e-3 as text, and quotes around text that looks like a number or a date"
)


def _between(low, high):
    return lambda value: low <= value <= high


def _all_between(low, high):
    return lambda values: len(values) > 0 and all(type(v) is int and low <= v <= high for v in values)


def _name(value):
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value) is not None


# name: (type, test, what is allowed)
PARAMETERS = {
    "run_name": (str, _name, "1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit, and no path"),
    "runs_dir": (str, bool, "a folder; a relative one counts from the project's own folder"),
    "seed": (int, _between(0, 2**31 - 1), "0 to 2147483647"),
    "split_seed": (int, _between(0, 2**31 - 1), "0 to 2147483647"),
    "train_size": (int, lambda v: v == 0 or v >= 100, "0 (all) or at least 100"),
    "validation_fraction": (float, lambda v: v == 0 or 0.01 <= v <= 0.9, "0 (none), or 0.01 to 0.9"),
    "epochs": (int, _between(1, 10_000), "1 to 10000"),
    "batch_size": (int, _between(2, 10_000), "2 to 10000"),
    "optimizer": (str, ("adam", "muon").__contains__, "one of adam, muon"),
    "learning_rate": (float, lambda v: 0 < v <= 1, "more than 0, at most 1"),
    "weight_decay": (float, _between(0, 1), "0 (none) to 1"),
    "schedule": (str, ("one_cycle", "cosine", "constant").__contains__, "one of one_cycle, cosine, constant"),
    "early_stopping": (bool, {True, False}.__contains__, "True or False"),
    "patience": (int, _between(1, 10_000), "1 to 10000 epochs"),
    "filters": (list, _all_between(1, 2048), "a list of whole numbers, 1 to 2048, one per block"),
    "convs_per_block": (list, _all_between(1, 10), "a list of whole numbers, 1 to 10, one per block"),
    "kernel_size": (int, _between(1, 11), "1 to 11 pixels"),
    "dropout": (float, lambda v: 0 <= v < 1, "0 to less than 1"),
    "dense_units": (int, _between(0, 8192), "0 (no hidden layer) to 8192"),
    "batch_norm": (bool, {True, False}.__contains__, "True or False"),
    "downsampling": (str, ("max", "max_late", "average", "stride").__contains__, "max, max_late, average or stride"),
    "pooling_head": (str, ("average", "max", "flatten").__contains__, "one of average, max, flatten"),
    "label_smoothing": (float, lambda v: 0 <= v < 1, "0 to less than 1"),
    "augment": (
        list,
        lambda v: all(v.count(x) == 1 and x in AUGMENTATIONS for x in v),
        f"a list of some of {', '.join(AUGMENTATIONS)}, each at most once; [] for none",
    ),
    "max_shift": (int, _between(0, 8), "0 to 8 pixels"),
    "precision": (str, ("auto", "float32", "mixed_bfloat16").__contains__, "one of auto, float32, mixed_bfloat16"),
    "examples": (int, _between(1, 20), "1 to 20 pictures"),
    "photo_path": (str, bool, "a picture file; a relative path counts from the project's own folder"),
    "baseline": (str, str.isprintable, "a configuration such as 'dropout = 0', or '' for the base"),
    "run_a": (str, lambda v: v == "" or _name(v), "a run's name, or '' for the choice that the notebook makes"),
    "run_b": (str, lambda v: v == "" or _name(v), "a run's name, or '' for the choice that the notebook makes"),
    "compare_on": (str, ("validation", "test").__contains__, "validation or test"),
}


def check_parameters(values) -> dict:
    """Return the parameters among `values`, a file's or a notebook's `globals()`, checked.

    A notebook's own parameters, too, which are not in the table: all that it declares. ValueError says what is allowed.
    """
    cells = values.get("In", ())
    own = [cell for cell in cells if PARAMETERS.keys() & {*re.findall(r"^(\w+):.*=", cell, re.MULTILINE)}]
    if own and not parameters_of(own[-1]):
        raise ValueError("the cell of parameters may hold only lines `name: type = value`, the value written out")
    declared, given = declared_parameters(cells)
    if unknown := ", ".join(sorted(set(given) - set(declared))):
        raise ValueError(f"this notebook has no parameter {unknown}. There are: {', '.join(declared)}")
    params = {}
    for name in declared or [name for name in values if name in PARAMETERS]:
        params[name] = value = values[name]
        if name not in PARAMETERS:
            continue
        kind, test, allowed = PARAMETERS[name]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or not test(value):
            told = f"{name} = {value!r} ({type(value).__name__}): allowed is {kind.__name__}, {allowed}"
            raise ValueError(told if type(value) is kind else f"{told}. {HOW_TO_GIVE}")
        params[name] = value
    filters, convs = params.get("filters", []), params.get("convs_per_block")
    if filters and convs and len(filters) != len(convs):
        raise ValueError(f"filters = {filters}, convs_per_block = {convs}: allowed are lists of equal length")
    if len(filters) > 4:
        raise ValueError(f"filters = {filters}: allowed are 4 blocks at most: each halves the 28 pixels")
    size, fraction = params.get("train_size", 0), params.get("validation_fraction", 0.01)
    if not fraction and params.get("early_stopping"):
        raise ValueError("validation_fraction = 0: allowed with early_stopping = False, which needs validation images")
    if size > (most := 60_000 - math.ceil(60_000 * fraction)) - 10 and size != most:  # of each class one stays
        raise ValueError(f"train_size = {size}: allowed are {most}, or {most - 10} at most: {fraction:.0%} validate")
    return params
