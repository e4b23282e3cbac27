"""Your own photo: from a picture file to the data set's form, as Zalando made it from its product photographs."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps
from pillow_heif import register_heif_opener

from fmnist_utils.data import CLASS_NAMES, IMAGE_SHAPE, scale
from fmnist_utils.evaluation import predict

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "HEIF", "AVIF")
SIDE, WORKING_SIDE = IMAGE_SHAPE[0], 300  # pixels, the longer side in the end and while the garment is looked for


class PhotoError(ValueError):
    """A picture cannot be used; the message says why and what to do."""


def prepare_photo(path):
    """Turn a picture of one garment on a plain background into the data set's form (arXiv:1708.07747, section 2).

    Returns {step: (h, w) uint8}: "grey" (0 is white), "background removed", "trimmed" to the garment and "28 × 28".
    Warns if the background is not plain. Raises PhotoError if the picture cannot be used.
    """
    picture, garment = _read(path)
    grey = 255 - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if grey.shape == (SIDE, SIDE):
        ready = grey if np.median(grey[::27, ::27]) < 128 else 255 - grey  # as the data set, whose corners are 0
        return dict.fromkeys(("grey", "background removed", "trimmed", "28 × 28"), ready)
    cut_out, garment = garment is not None, _find_garment(path, picture) if garment is None else garment
    middle = np.median(grey[garment])  # lifted, for few garments of the data set are as dim as a white one on a floor
    lifted = np.clip(np.interp(middle, (60, 210), (100, 220)) + 1.5 * (grey - middle), 1, 255)
    on_white = not cut_out and np.median(grey[~garment]) < 15  # as in the shop: its light is the data set's
    removed = np.where(garment, np.maximum(grey, 1) if on_white else lifted, 0).astype("uint8")
    rows, columns = (np.flatnonzero(garment.mean(axis=axis) > 0.02) for axis in (1, 0))
    if SIDE * min(len(rows), len(columns)) < max(len(rows), len(columns), 1):
        raise PhotoError(f"{path}: what stands out from the background is too thin to be a garment. Go nearer to it.")
    trimmed = removed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = ImageOps.pad(Image.fromarray(trimmed), (SIDE, SIDE), Image.Resampling.BOX)
    return {"grey": grey, "background removed": removed, "trimmed": trimmed, "28 × 28": np.asarray(small)}


def predict_photo(path, model):
    """Return prepare_photo's steps and the (10,) float32 probabilities. Warns if the highest one is below 70 %."""
    steps = prepare_photo(path)
    probability = predict(model, scale(steps["28 × 28"][None]))[0]
    if (most := probability.max()) < 0.7:
        answer = CLASS_NAMES[probability.argmax()]
        warnings.warn(f"{Path(path).name}: only {most:.0%} for {answer}: it may well be wrong.", stacklevel=2)
    return steps, probability


def _read(path):
    """Return a file's picture, upright, (h, w, 3) uint8, and where its garment is, (h, w) bool, or None if untold."""
    register_heif_opener()
    try:
        with Image.open(path, formats=FORMATS) as picture:
            shorter, longer = sorted(picture.size)
            if shorter * longer > 80_000_000 or shorter < max(SIDE, longer / 20):  # before it is unpacked
                raise ValueError(f"{shorter} × {longer}; allowed: 28 × 28 to 80,000,000 in all, no thin strip")
            picture.draft("RGB", (2 * WORKING_SIDE, 2 * WORKING_SIDE))  # a JPEG need not be unpacked whole
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
            if picture.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype("uint8"))
            picture = Image.fromarray(np.asarray(picture.convert("RGBA")))  # without the rest of its metadata
    except Exception as error:  # each decoder has its own kinds
        raise PhotoError(f"{path}: cannot be read ({error}). Name a picture of {', '.join(FORMATS)}.") from error
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    picture = ImageOps.exif_transpose(picture)
    picture.thumbnail((WORKING_SIDE, WORKING_SIDE))
    opaque = np.asarray(picture.getchannel("A")) >= 128
    picture = np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return picture, opaque if 0 < opaque.mean() < 0.97 else None


def _find_garment(path, picture):
    """Return where the garment is, (h, w) bool: GrabCut (doi:10.1145/1015706.1015720) with the rim as background."""
    width = max(2, round(0.04 * min(picture.shape[:2])))
    rim = cv2.copyMakeBorder(np.zeros_like(picture[width:-width, width:-width, 0]), *[width] * 4, 0, value=1) > 0
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    distance = np.linalg.norm(lab - np.median(lab[rim], axis=0), axis=2)  # of 8-bit Lab colours
    if np.percentile(distance, 99) < 25:
        raise PhotoError(f"{path}: nothing stands out from the background. Lay it on another colour, and go nearer.")
    if (share := (distance[rim] > 50).mean()) > 0.2:
        warnings.warn(f"{Path(path).name}: the background is not plain, {share:.0%} of the rim differ", stacklevel=3)
    labels = np.where(rim, cv2.GC_BGD, cv2.GC_PR_FGD).astype("uint8")
    labels[distance > 2 * max(8, np.percentile(distance[rim], 99))] = cv2.GC_FGD  # white on a shop's white
    cv2.setRNGSeed(0)
    cv2.grabCut(lab, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype("uint8"))
    areas = sizes[:, cv2.CC_STAT_AREA] * (np.arange(len(sizes)) > 0)  # part 0 is the background
    return np.isin(parts, np.flatnonzero(areas > 0.2 * areas.max()))  # a second shoe stays, a label on the wall goes
