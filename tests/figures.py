"""Under nbval, compare outputs as other processors print and draw them: numbers roughly, figures by squares.

Kernels for AVX2, AVX-512 and AMX round differently, and so do other numbers of threads. So in a text a number that has
a decimal point or a per cent sign may differ by one unit of its last printed place. Blanks do not count, since a column
moves by a digit. All else must be equal: words, whole numbers (shapes, counts, classes), hashes, versions.

A figure is an image/png output, which nbval does not compare. Two are cut into squares; their distance is the largest
difference of a square's mean colours. So a dotted line that is missing counts nearly as much as a whole picture, and
the last digits, in which machines differ, hardly at all: other convolution kernels, instruction sets and numbers of
threads moved no figure but t-SNE's by more than 0.002.
"""

import base64
import copy
import io
import re
from decimal import Decimal

import numpy as np
from PIL import Image

# 0.9319, +1,234.5, −8.7e-05, 61 (of 61 %); but not 61 alone, 2.19.0, nor a part of a word
NUMBER = r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+(?:e[-+]?\d+)?|(?=\s?%))(?!\.?\d)"
TOKEN = re.compile(rf"({NUMBER})|(\w+|[^\w\s]|\n)")  # a pair each: such a number or "", anything else or ""
SQUARE = 8  # pixels
TOLERANCE = 0.02  # of the range of a colour


def alike(stored, shown):
    """True if two texts are equal but for blanks, and numbers with a decimal point or % differ by a unit at most."""
    stored, shown = TOKEN.findall(stored), TOKEN.findall(shown)
    pairs = zip(stored, shown, strict=False)
    return len(stored) == len(shown) and all(old == new or near(old[0], new[0]) for old, new in pairs)


def near(old, new):
    """True if two numbers, as printed, differ by at most one unit of the last place that is printed; "" is none."""
    if not (old and new):
        return False
    old, new = (Decimal(text.replace("−", "-").replace(",", "")) for text in (old, new))
    unit = Decimal(1).scaleb(min(old.as_tuple().exponent, new.as_tuple().exponent))
    return abs(old - new) <= unit


def settled(shown, stored):
    """Return a cell's outputs, each text that is like the stored one replaced by it, so that nbval finds them equal."""
    shown = copy.deepcopy(shown)
    for new, old in zip(shown, stored, strict=False):  # nbval says it when one is missing
        new, old = new.get("data", new), old.get("data", old)
        for kind in new.keys() & old.keys():
            if kind.startswith("text") and alike(old[kind], new[kind]):
                new[kind] = old[kind]
    return shown


def figures_of(outputs):
    """Return the figures among a cell's outputs, in their order, each (height, width, 3) in [0, 1]."""
    encoded = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in encoded]
    return [np.asarray(picture, "float64") / 255 for picture in pictures]


def distance(stored, shown):
    """Return the largest difference of two figures' squares, 0 to 1; 1 where the figures are of different sizes."""
    if stored.shape != shown.shape:
        return 1.0
    height, width = (-(-side // SQUARE) * SQUARE for side in stored.shape[:2])
    change = np.zeros((height, width, 3))
    change[: stored.shape[0], : stored.shape[1]] = shown - stored
    squares = change.reshape(height // SQUARE, SQUARE, width // SQUARE, SQUARE, 3).mean(axis=(1, 3))
    return float(np.abs(squares).max())


def complaint(stored, shown):
    """Say which figure differs and by how much; "" when all of a cell's figures, two lists, are as stored."""
    if len(stored) != len(shown):
        return f"{len(shown)} figures instead of {len(stored)}"
    for number, (old, new) in enumerate(zip(stored, shown, strict=True), start=1):
        if (far := distance(old, new)) > TOLERANCE:
            return (
                f"figure {number} of {len(stored)} differs from the stored one by {far:.3f} (1: in size), allowed is "
                f"{TOLERANCE}. Look at it; if the change is wanted, store it by `make notebooks`"
            )
    return ""


def pytest_configure(config):
    """Let nbval compare a cell's outputs in these two ways."""
    if not getattr(config.option, "nbval", False):
        return
    from nbval.plugin import IPyNbCell

    compare_text = IPyNbCell.compare_outputs

    def compare(self, shown, stored, **options):
        same = compare_text(self, settled(shown, stored), stored, **options)
        if same and (different := complaint(figures_of(stored), figures_of(shown))):
            self.comparison_traceback.append(f"cell {self.cell.get('id', '')}: {different}")
            return False
        return same

    IPyNbCell.compare_outputs = compare
