"""Your own photo: from a picture file to the data set's form, as Zalando made it from its product photographs."""

import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from fmnist_utils.data import CLASS_NAMES, IMAGE_SHAPE, scale
from fmnist_utils.evaluation import predict

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "HEIF", "AVIF")
LARGEST_PIXELS = 120_000_000  # of a picture; a bigger one is refused before it is unpacked
WORKED_ON = 300  # pixels, the longer side that is worked on: 28 are left in the end
LEAST_CONTRAST = 25  # between garment and background, a distance of 8-bit Lab colours
LEAST_PROBABILITY, LARGEST_RIM = 0.7, 0.1  # a less probable answer, or more of the rim that stands out, is warned of


class PhotoError(ValueError):
    """A picture cannot be used; the message says why and what to do."""


def prepare_photo(path):
    """Turn a picture of one garment on a plain background into the data set's form.

    path: a file of FORMATS, at most LARGEST_PIXELS. Returns {step: (h, w) uint8 array}: "grey" (0 is white, 255 black),
    "background 0", "trimmed" to the garment, and "28 × 28", its longer side 28, in the middle; a 28 × 28 picture stays
    as it is. After Xiao et al. 2017 (arXiv:1708.07747), section 2. Warns of an uneven background; raises PhotoError.
    """
    picture, garment = _read(path)
    grey = 255 - cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if grey.shape == IMAGE_SHAPE[:2]:
        ready = grey if np.median(grey[_rim(grey, 1)]) < 128 else 255 - grey  # the data set's background is 0
        return dict.fromkeys(("grey", "background 0", "trimmed", "28 × 28"), ready)
    garment = _find_garment(path, picture) if garment is None else garment
    rows, columns = (np.flatnonzero(garment.mean(axis=axis) > 0.02) for axis in (1, 0))
    if not (len(rows) and len(columns)):
        raise PhotoError(f"{path}: what stands out from the background is too thin to be a garment. Go nearer to it.")
    middle = np.median(grey[garment])  # lifted, for few garments of the data set are as dim as a white one on a floor
    lifted = np.clip(np.interp(middle, (60, 210), (100, 220)) + 1.5 * (grey - middle), 1, 255)
    garment_high = np.where(garment, lifted, 0).astype("uint8")
    trimmed = garment_high[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = [max(1, round(IMAGE_SHAPE[0] * side / max(trimmed.shape))) for side in trimmed.shape[::-1]]
    small = ImageOps.pad(Image.fromarray(trimmed).resize(size, Image.Resampling.BOX), IMAGE_SHAPE[:2], color=0)
    return {"grey": grey, "background 0": garment_high, "trimmed": trimmed, "28 × 28": np.asarray(small)}


def predict_photo(path, model):
    """Prepare a picture and ask the model. Returns (steps, probabilities): see `prepare_photo`, and (10,) float32."""
    steps = prepare_photo(path)
    probability = predict(model, scale(steps["28 × 28"][None]))[0]
    if (most := probability.max()) < LEAST_PROBABILITY:
        answer = CLASS_NAMES[probability.argmax()]
        warnings.warn(f"{path}: {answer} gets only {most:.0%}, so it may well be wrong.", stacklevel=2)
    return steps, probability


def _read(path):
    """Return a file's picture, upright, (h, w, 3) uint8, and where its garment is, (h, w) bool, or None if untold."""
    register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at here
            picture = Image.open(path, formats=FORMATS)
        with picture:
            if picture.width * picture.height > LARGEST_PIXELS or min(picture.size) < IMAGE_SHAPE[0]:
                allowed = f"at least 28 × 28 are needed, at most {LARGEST_PIXELS:,} in all. Save it in another size."
                raise PhotoError(f"{path}: {picture.width} × {picture.height} pixels; {allowed}")
            picture.draft("RGB", (2 * WORKED_ON, 2 * WORKED_ON))  # a JPEG need not be unpacked whole
            if picture.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype("uint8"))
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise PhotoError(f"{path}: cannot be read ({error.strerror}). Name a picture that you may read.") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path}: not a picture, or none of {', '.join(FORMATS)}. Save it as one of these.") from error
    except PhotoError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of damaged files
        raise PhotoError(f"{path}: damaged, or too big to unpack ({error}). Save it again, as PNG or JPEG.") from error
    picture.thumbnail((WORKED_ON, WORKED_ON))
    opaque = np.asarray(picture.getchannel("A")) >= 128
    picture = np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return (picture, opaque) if 0 < opaque.mean() < 0.97 else (picture, None)  # rounded corners are no cut-out


def _rim(picture, width):
    """Return where the outermost pixels of a picture are, (h, w) bool."""
    return np.pad(np.zeros([side - 2 * width for side in picture.shape[:2]], bool), width, constant_values=True)


def _find_garment(path, picture):
    """Return where the garment is, (h, w) bool: GrabCut (doi:10.1145/1015706.1015720) with the rim as background."""
    rim = _rim(picture, max(2, round(0.04 * min(picture.shape[:2]))))
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    distance = np.linalg.norm(lab - np.median(lab[rim], axis=0), axis=2)
    if np.percentile(distance, 99) < LEAST_CONTRAST:
        advice = "Lay the garment on a plain one of another colour, and go nearer."
        raise PhotoError(f"{path}: nothing of any size stands out from the background. {advice}")
    if (share := (distance[rim] > LEAST_CONTRAST).mean()) > LARGEST_RIM:
        told = f"{share:.0%} of the rim stands out: the background is not plain, and may be taken for the garment."
        warnings.warn(f"{path}: {told}", stacklevel=4)
    labels = np.where(rim, cv2.GC_BGD, cv2.GC_PR_FGD).astype("uint8")
    cv2.setRNGSeed(0)
    cv2.grabCut(lab, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats((labels == cv2.GC_PR_FGD).astype("uint8"))
    areas = sizes[:, cv2.CC_STAT_AREA] * (np.arange(len(sizes)) > 0)  # part 0 is the background
    return np.isin(parts, np.flatnonzero(areas > 0.2 * areas.max()))  # a second shoe stays, a label on the wall goes
