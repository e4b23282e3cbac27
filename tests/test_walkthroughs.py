"""CONTRIBUTING.md's walk-throughs, followed on a copy of the project: what is put in are its own code blocks."""

import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import nbformat
import pytest
import shipped
from shipped import ROOT

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### ([^:\n]+): [^\n]+\n(.+?)(?=^##)", GUIDE, re.MULTILINE | re.DOTALL))
PARAMETER, AUGMENTATION, METRIC, NOTEBOOK = SECTIONS
TRY = """
import json
import tensorflow as tf
from fmnist_utils import augmentation, parameters, pipeline, training
from fmnist_utils._recipe import compiled_network

params = pipeline.defaults(pipeline.TRAINING)
told = {"default": params["clip_norm"]}
model = compiled_network(params | {"clip_norm": 0.5}, 10)
told["clipped"] = model.optimizer.clipnorm
try:
    parameters.check_parameters({"clip_norm": 101.0})
except ValueError as error:
    told["refused"] = str(error)

parameters.check_parameters({"augment": ["flip", "cutout"]})
x, key, mask = tf.ones((8, 28, 28, 1)), tf.constant([1, 2]), tf.zeros(8, bool)
cut = augmentation.augment_batch(x, ["cutout"], mask, key)
told["cut"] = tf.reduce_sum(1 - cut, axis=(1, 2, 3)).numpy().tolist()
told["erased"] = float(tf.reduce_sum(augmentation.augment_batch(x, ["erase"], mask, key)))

history = tf.keras.callbacks.History()
history.set_model(model)
columns = ("loss", "accuracy", "val_loss", "val_accuracy", "val_top3", "seconds")
history.history = {name: [0.5, 0.6] for name in columns}
told["val_top3"] = training.training_summary(history, 2, 100, 0)["val_top3"]
print(json.dumps(told))
"""


def blocks(section):
    """Return the Python blocks of a walk-through, without the indent of its list."""
    found = re.findall(r"^   ```python\n(.*?)^   ```", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return [re.sub(r"^   ", "", text, flags=re.MULTILINE) for text in found]


def edit(path, old, new):
    """Put `new` in place of `old`, which is there once, in a text file or in the sources of a notebook."""
    if path.suffix == ".ipynb":
        notebook = nbformat.read(path, as_version=4)
        cells = [cell for cell in notebook.cells if old in cell.source]
        assert len(cells) == 1, f"CONTRIBUTING.md no longer fits {path.name}: {old}"
        cells[0].source = cells[0].source.replace(old, new)
        nbformat.write(notebook, path)
    else:
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"CONTRIBUTING.md no longer fits {path.name}: {old}"
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the changed copy says: a parameter, an augmentation and a metric were added by the guide's own blocks."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "fmnist_utils", copy / "fmnist_utils", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "03_training.ipynb", copy / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", copy)
    package, training = copy / "fmnist_utils", copy / "notebooks" / "03_training.ipynb"

    row, default, optimizer = blocks(PARAMETER)
    rate = "optimizer = tf.keras.optimizers.Adam(rate, beta_2=0.99, weight_decay=weight_decay or None)"
    edit(package / "parameters.py", "PARAMETERS = {\n", "PARAMETERS = {\n    " + row)
    edit(training, 'schedule: str = "one_cycle"', default + 'schedule: str = "one_cycle"')
    edit(training, rate, optimizer.rstrip())
    changed = 'weight_decay=params["weight_decay"] or None, clipnorm=params["clip_norm"] or None'
    edit(package / "_recipe.py", 'weight_decay=params["weight_decay"] or None', changed)

    code, names = blocks(AUGMENTATION)
    function, table = code.split("AUGMENTATIONS = {\n")
    edit(package / "augmentation.py", "\n\nAUGMENTATIONS = {", f"\n\n{function}\nAUGMENTATIONS = {{")
    flip = '    "flip": lambda x, key, flip_mask, max_shift: alternating_flip(x, flip_mask),\n'
    edit(package / "augmentation.py", flip, flip + table.split("...\n")[1].rstrip("}\n") + "\n")
    edit(package / "parameters.py", 'AUGMENTATIONS = ("flip", "shift", "erase")', names.rstrip())

    metrics, summary = blocks(METRIC)
    accuracy = re.sub(r"\[.+\],\n *", '["accuracy"], ', metrics.rstrip())
    edit(training, accuracy, metrics.rstrip())
    edit(
        package / "training.py",
        '        "best_epoch": best_epoch,\n',
        f'        "best_epoch": best_epoch,\n        {summary}',
    )

    done = subprocess.run([sys.executable, "-c", TRY], cwd=copy, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_files_are_as_many_as_a_heading_says():
    headings = re.findall(r"^### (.+?): (two|three|four) files", GUIDE, re.MULTILINE)
    assert len(headings) == len(SECTIONS)
    for section, number in headings:
        named = {*re.findall(r"^\d\. `([^`]+\.\w+)`", SECTIONS[section], re.MULTILINE)}
        assert len(named) == {"two": 2, "three": 3, "four": 4}[number], f"{section}: {sorted(named)}"


def test_parameter_added_is_read_checked_and_used(told):
    assert told["default"] == 0 and told["clipped"] == 0.5
    assert told["refused"] == "clip_norm = 101.0 (float): allowed is float, 0 (no clipping) to 100"


def test_augmentation_added_changes_images_and_leaves_the_others_their_random_numbers(told):
    from fmnist_utils import augmentation
    from fmnist_utils._tensorflow import tf

    assert max(told["cut"]) == 64 and min(told["cut"]) > 0
    erased = augmentation.augment_batch(tf.ones((8, 28, 28, 1)), ["erase"], tf.zeros(8, bool), tf.constant([1, 2]))
    assert told["erased"] == pytest.approx(float(tf.reduce_sum(erased)))


def test_metric_added_is_in_the_summary(told):
    assert told["val_top3"] == 0.6


def test_notebooks_are_listed_nowhere_but_in_their_folder():
    """So that a new one needs no line in a tool, a module or the Makefile."""
    for path in [*ROOT.glob("tools/*.py"), *ROOT.glob("fmnist_utils/*.py"), ROOT / "Makefile", ROOT / "book/conf.py"]:
        assert "07_beyond" not in path.read_text(encoding="utf-8"), path
    assert any(fnmatch("notebooks/08_new_topic.ipynb", pattern) for pattern in shipped.NAMES)
    patterns = re.findall(r"--nbval (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert any(fnmatch("notebooks/08_new_topic.ipynb", pattern) for pattern in patterns), patterns
