"""Under nbval, compare each figure of a notebook with the stored one; nbval itself compares text alone.

A figure is an image/png output of a cell that is not tagged nbval-ignore-output. Two are cut into squares; their
distance is the largest difference of a square's mean colours. So a dotted line that is missing counts nearly as much as
a whole picture, and the last digits, in which machines differ, hardly at all: other convolution kernels, instruction
sets and numbers of threads moved no figure but t-SNE's by more than 0.002.
"""

import base64
import io

import numpy as np
from PIL import Image

SQUARE = 8  # pixels
TOLERANCE = 0.02  # of the range of a colour


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
            sizes = "" if old.shape == new.shape else f", {new.shape[1::-1]} pixels instead of {old.shape[1::-1]}"
            return (
                f"figure {number} of {len(stored)} differs from the stored one by {far:.3f}, allowed is "
                f"{TOLERANCE}{sizes}. Look at it; if the change is wanted, store it by `make notebooks`"
            )
    return ""


def pytest_configure(config):
    """Let nbval's comparison of a cell's outputs look at the figures too."""
    if not getattr(config.option, "nbval", False):
        return
    from nbval.plugin import IPyNbCell

    compare_text = IPyNbCell.compare_outputs

    def compare(self, shown, stored, **options):
        same = compare_text(self, shown, stored, **options)
        if same and (different := complaint(figures_of(stored), figures_of(shown))):
            self.comparison_traceback.append(f"cell {self.cell.get('id', '')}: {different}")
            return False
        return same

    IPyNbCell.compare_outputs = compare
