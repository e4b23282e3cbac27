"""Reading a sweep file: which runs it asks for, checked as a whole before anything starts."""

import hashlib
import itertools
import json
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np

from fmnist_utils import pipeline, runs
from fmnist_utils._environment import code_hash
from fmnist_utils._files import read_mapping
from fmnist_utils.parameters import PARAMETERS, check_parameters, removed_hint

KEYS = ("notebook", "base", "variants", "grid", "random", "seeds")
RESERVED = ("run_name", "runs_dir")  # the sweep names its runs itself


def read_sweep(path):
    """Read a sweep file and check all of it.

    Args:
        path (str or Path): The file; the paths in it count from the working directory.

    Returns:
        notebook (Path), base (dict of parameters that all runs share), overrides: a dict from each run's name, a hash
        of its parameters and of the code that trains, to the parameters that set the run apart.

    Raises:
        ValueError: One line, for a file that is no YAML mapping, an unknown key or parameter, an empty or doubled list,
            a notebook that cannot be swept, a value that it would refuse, and two runs that are the same.
    """
    content = read_mapping(path, "sweep file", "notebook: notebooks/03_training.ipynb")
    if unknown := sorted(map(str, content.keys() - set(KEYS))):
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}. There are: {', '.join(KEYS)}")
    notebook = Path(str(content.get("notebook"))).expanduser()
    if not notebook.is_file():
        raise ValueError(f"{path}: notebook = {content.get('notebook')!r}: there is no such file in {Path.cwd()}")
    defaults = pipeline.defaults(notebook)
    cells = _code_cells(notebook)
    _check_notebook(path, notebook, defaults, cells)
    if not isinstance(content.get("base") or "", str):
        raise ValueError(f"{path}: base = {content['base']!r}: it must name a parameter file")
    base = pipeline.read_parameters(content["base"], extra=defaults) if content.get("base") else {}
    base = {name: value for name, value in base.items() if name in defaults and name not in RESERVED}
    code, overrides, descriptions = code_hash() + json.dumps(cells), {}, {}
    for changes in _changes(path, content):
        _check_names(path, changes, defaults)
        params = _check_values(path, defaults, {**defaults, **base, **changes})
        text = json.dumps({n: v for n, v in params.items() if n not in RESERVED}, sort_keys=True, default=str)
        name = hashlib.sha256((text + code).encode()).hexdigest()[:16]
        if name in overrides:
            raise ValueError(f"{path}: the same run twice, with {descriptions[name]} and with {describe(changes)}")
        overrides[name], descriptions[name] = {n: params[n] for n in changes}, describe(changes)
    return notebook, base, overrides


def _code_cells(notebook):
    return [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


def _check_notebook(path, notebook, defaults, cells):
    missing = [name for name in RESERVED if name not in defaults]
    writes = any("runs.finish(" in cell or runs.METRICS in cell for cell in cells)
    if missing or not writes:
        lack = f"declares no parameter {', '.join(missing)}" if missing else f"writes no {runs.METRICS}"
        raise ValueError(
            f"{path}: {notebook} cannot be swept: it {lack}. A notebook to sweep declares run_name and runs_dir and "
            f"writes runs_dir/run_name/{runs.METRICS}, as 03_training.ipynb does by runs.finish()"
        )


def _check_values(path, defaults, params):
    """Check the values under the names of 03's parameters; in another notebook they may mean something else."""
    known = {}
    for name in PARAMETERS.keys() & defaults.keys():
        with suppress(ValueError):
            known |= check_parameters({name: defaults[name]})
    try:
        return params | check_parameters({name: params[name] for name in params if name in known})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_names(path, changes, defaults):
    if reserved := [name for name in RESERVED if name in changes]:
        raise ValueError(f"{path}: {', '.join(reserved)} cannot be swept: each run is named after its parameters")
    if unknown := sorted(map(str, changes.keys() - defaults.keys())):
        known = ", ".join(sorted(defaults.keys() - set(RESERVED)))
        raise ValueError(
            f"{path}: the notebook has no parameter {', '.join(unknown)}. {removed_hint(unknown)}There are: {known}"
        )


def _changes(path, content):
    """Yield what sets each run apart, a dict: seeds times variants times grid times random samples.

    Seeds come first: each configuration has been run once after a first round, and an hour in which the machine is
    slow falls on all configurations alike.
    """
    grid = content.get("grid", {})
    if "grid" in content and not (isinstance(grid, dict) and grid):
        raise ValueError(f"{path}: grid = {grid!r}: it must hold lines such as `dropout: [0.0, 0.1]`")
    parts = [[{name: value} for value in _list(path, f"grid, {name}", values)] for name, values in grid.items()]
    if "variants" in content:
        variants = _list(path, "variants", content["variants"])
        if not all(isinstance(variant, dict) for variant in variants):
            raise ValueError(f"{path}: variants must be a list of mappings such as {{dropout: 0.1}}; {{}} is the base")
        parts.insert(0, variants)
    if "random" in content:
        parts.append(_samples(path, content["random"]))
    seeds = [{"seed": seed} for seed in _list(path, "seeds", content["seeds"])] if "seeds" in content else [{}]
    for seed, *others in itertools.product(seeds, *parts):
        combination = (*others, seed)
        names = [name for part in combination for name in part]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"{path}: {', '.join(twice)} stands in two of variants, grid, random and seeds")
        yield {name: value for part in combination for name, value in part.items()}


def _list(path, what, values):
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: {what} = {values!r}: allowed is a list with at least one value")
    return values


def _samples(path, random):
    """Return samples drawn from ranges, a list of dicts; whole limits give whole numbers."""
    try:
        count, ranges = random["samples"], random["ranges"]
        generator, samples = np.random.default_rng(random.get("seed", 0)), []
        for _ in range(count):
            sample = {}
            for name, limits in ranges.items():
                low, high = limits["low"], limits["high"]
                if low >= high or (limits.get("log") and low <= 0):
                    raise ValueError("low must be less than high, and more than 0 on a log scale")
                whole, log = isinstance(low, int) and isinstance(high, int), limits.get("log")
                low, high = (low - 0.5, high + 0.5) if whole else (low, high)  # each whole number its share
                value = generator.uniform(*(np.log([low, high]) if log else (low, high)))
                value = float(np.exp(value) if log else value)
                sample[name] = round(value) if whole else value
            samples.append(sample)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        form = "{samples: 8, seed: 0, ranges: {learning_rate: {low: 0.001, high: 0.02, log: true}}}"
        raise ValueError(f"{path}: random = {random!r} ({error!r}): allowed is, for example, {form}") from error
    return _list(path, "random, samples", samples)


def describe(changes):
    """Say in words what sets a run apart."""
    return ", ".join(f"{name} = {value}" for name, value in changes.items()) or "the base as it is"
