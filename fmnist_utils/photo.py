"""Your own photo: from a picture file to the data set's form, as Zalando made it from its product photographs."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from fmnist_utils.data import CLASS_NAMES, IMAGE_SHAPE, scale
from fmnist_utils.evaluation import predict

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "HEIF", "AVIF")
LARGEST_PIXELS = 80_000_000  # of a picture; a bigger one is refused before it is unpacked
MAX_SIDE = 300  # pixels, the longer side that is worked on: 28 are left in the end
LEAST_CONTRAST = 25  # between garment and background, a distance of 8-bit Lab colours
LEAST_PROBABILITY, LARGEST_RIM = 0.7, 0.2  # a less probable answer, or more of the rim that stands out, is warned of


class PhotoError(ValueError):
    """A picture cannot be used; the message says why and what to do."""


def prepare_photo(path):
    """Turn a picture of one garment on a plain background into the data set's form.

    After Xiao et al. 2017 (arXiv:1708.07747), section 2. A picture of 28 × 28 stays as it is. Warns where the
    background is not plain.

    Args:
        path: A file of FORMATS.

    Returns:
        {step: (h, w) uint8}: "grey" (0 is white), "background removed", "trimmed" to the garment, and "28 × 28", its
        longer side 28, in the middle.

    Raises:
        PhotoError: The picture cannot be used; the message says why and what to do.
    """
    picture, cut_out = _read(path)
    grey = 255 - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if grey.shape == IMAGE_SHAPE[:2]:
        ready = grey if np.median(grey[::27, ::27]) < 128 else 255 - grey  # the data set's corners are 0
        return dict.fromkeys(("grey", "background removed", "trimmed", "28 × 28"), ready)
    garment = _find_garment(path, picture) if cut_out is None else cut_out
    rows, columns = (np.flatnonzero(garment.mean(axis=axis) > 0.02) for axis in (1, 0))
    if not (len(rows) and len(columns)):
        raise PhotoError(f"{path}: what stands out from the background is too thin to be a garment. Go nearer to it.")
    middle = np.median(grey[garment])  # lifted, for few garments of the data set are as dim as a white one on a floor
    lifted = np.clip(np.interp(middle, (60, 210), (100, 220)) + 1.5 * (grey - middle), 1, 255)
    if cut_out is None and np.median(grey[~garment]) < 15:  # on white, as in the shop, its light is the data set's
        lifted = np.maximum(grey, 1)
    garment_high = np.where(garment, lifted, 0).astype("uint8")
    trimmed = garment_high[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = [max(1, round(IMAGE_SHAPE[0] * side / max(trimmed.shape))) for side in trimmed.shape[::-1]]
    small = ImageOps.pad(Image.fromarray(trimmed).resize(size, Image.Resampling.BOX), IMAGE_SHAPE[:2], color=0)
    return {"grey": grey, "background removed": garment_high, "trimmed": trimmed, "28 × 28": np.asarray(small)}


def predict_photo(path, model):
    """Prepare a picture and predict its class. Warns where the highest probability is low.

    Args:
        path: A file of FORMATS.
        model: A trained network.

    Returns:
        (steps, probabilities): see `prepare_photo`, and (10,) float32.

    Raises:
        PhotoError: The picture cannot be used; the message says why and what to do.
    """
    steps = prepare_photo(path)
    probability = predict(model, scale(steps["28 × 28"][None]))[0]
    if (most := probability.max()) < LEAST_PROBABILITY:
        answer = CLASS_NAMES[probability.argmax()]
        warnings.warn(f"{Path(path).name}: only {most:.0%} for {answer}: it may well be wrong.", stacklevel=2)
    return steps, probability


def _read(path):
    """Return a file's picture, upright, (h, w, 3) uint8, and where its garment is, (h, w) bool, or None if untold."""
    register_heif_opener()
    try:
        with Image.open(path, formats=FORMATS) as picture:
            shorter, longer = sorted(picture.size)
            if shorter * longer > LARGEST_PIXELS or shorter < max(IMAGE_SHAPE[0], longer / 20):
                raise ValueError(f"{shorter} × {longer}; allowed: 28 × 28 to {LARGEST_PIXELS:,} in all, no thin strip")
            picture.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # a JPEG need not be unpacked whole
            if picture.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype("uint8"))
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise PhotoError(f"{path}: cannot be read ({error.strerror}). Name a picture that you may read.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of damaged files
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error
        raise PhotoError(f"{path}: {reason}. Save it anew, as one of {', '.join(FORMATS)}.") from error
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    opaque = np.asarray(picture.getchannel("A")) >= 128
    picture = np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return (picture, opaque) if 0 < opaque.mean() < 0.97 else (_without_frame(picture), None)


def _without_frame(picture):
    """Cut off a frame of one colour, as a screenshot has it, if all that borders on it is of another colour."""
    apart = (cv2.absdiff(picture, np.full_like(picture, picture[0, 0])).max(axis=2) > 10).astype("uint8")
    left, top, width, height = cv2.boundingRect(apart)
    inner = np.s_[top + 2 : top + height - 2, left + 2 : left + width - 2]  # its edge is mixed with the frame
    if min(width, height) < max(32, min(picture.shape[:2]) / 2) or picture[inner].std(axis=(0, 1)).max() < 25:
        return picture  # a bag may be as straight as a picture, but nothing stands out within it
    border = np.concatenate([*apart[inner][[0, -1]], *apart[inner].T[[0, -1]]])
    return picture[inner] if border.mean() > 0.98 else picture


def _find_garment(path, picture):
    """Return where the garment is, (h, w) bool: GrabCut (doi:10.1145/1015706.1015720) with the rim as background."""
    width = max(2, round(0.04 * min(picture.shape[:2])))
    rim = cv2.copyMakeBorder(np.zeros_like(picture[width:-width, width:-width, 0]), *[width] * 4, 0, value=1) > 0
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    distance = np.linalg.norm(lab - np.median(lab[rim], axis=0), axis=2)
    if np.percentile(distance, 99) < LEAST_CONTRAST:
        raise PhotoError(f"{path}: nothing stands out from the background. Lay it on another colour, and go nearer.")
    if (share := (distance[rim] > 2 * LEAST_CONTRAST).mean()) > LARGEST_RIM:
        told = f"{Path(path).name}: the background is not plain, {share:.0%} of the rim differ: the class is uncertain."
        warnings.warn(told, stacklevel=4)
    labels = np.where(rim, cv2.GC_BGD, cv2.GC_PR_FGD).astype("uint8")
    labels[distance > 2 * max(8, np.percentile(distance[rim], 99))] = cv2.GC_FGD  # white on a shop's white
    cv2.setRNGSeed(0)
    cv2.grabCut(lab, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype("uint8"))
    areas = sizes[:, cv2.CC_STAT_AREA] * (np.arange(len(sizes)) > 0)  # part 0 is the background
    return np.isin(parts, np.flatnonzero(areas > 0.2 * areas.max()))  # a second shoe stays, a label on the wall goes
