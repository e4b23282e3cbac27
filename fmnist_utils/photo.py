"""Your own photo: from a picture file to the data set's form, as Zalando made it from its product photographs."""

import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fmnist_utils.data import IMAGE_SHAPE, scale
from fmnist_utils.evaluation import predict

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
LARGEST_PIXELS = 50_000_000  # of a picture; a bigger one is refused before it is unpacked
WORKED_ON = 600  # pixels, the longer side that is worked on: 28 are left in the end
STANDS_OUT = 0.15  # of the strongest difference from the background: what is above it belongs to the garment
LEAST_CONTRAST = 25  # of 255, between garment and background


class PhotoError(ValueError):
    """A picture cannot be used; the message says why and what to do."""


def prepare_photo(path):
    """Turn a picture of one garment on a plain background into the data set's form.

    path: a PNG, JPEG, WebP or BMP file of at most LARGEST_PIXELS. Returns {step: (h, w) uint8 array}, in the order of
    the steps: "grey" (0 is white and 255 black, as in the data set), "background 0", "trimmed" to the garment, and last
    "28 × 28", with the longer side 28 and the garment in the middle. After the data set's own recipe (Xiao et al. 2017,
    arXiv:1708.07747, section 2). Raises PhotoError.
    """
    grey = 255 - np.asarray(_read(path))
    rim = max(1, round(0.03 * min(grey.shape)))
    inner = np.zeros(grey.shape, bool)
    inner[rim:-rim, rim:-rim] = True
    background = np.median(grey[~inner])
    sides = [np.clip(sign * (grey - background.astype(float)), 0, None) for sign in (1, -1)]  # darker, lighter
    strongest, garment_high = max(((np.percentile(side, 99), side) for side in sides), key=lambda pair: pair[0])
    if strongest < LEAST_CONTRAST:
        raise PhotoError(
            f"{path}: nothing of any size stands out from the background. Lay the garment on a plain one, much lighter "
            "or darker, and go nearer."
        )
    garment_high = np.clip(garment_high * (255 / strongest), 0, 255).astype("uint8")
    garment_high[garment_high < 255 * STANDS_OUT] = 0  # a wall in uneven light is still the wall
    trimmed = _trim(path, garment_high)
    return {"grey": grey, "background 0": garment_high, "trimmed": trimmed, "28 × 28": _shrink(trimmed)}


def predict_photo(path, model):
    """Prepare a picture and ask the model. Returns (steps, probabilities): see `prepare_photo`, and (10,) float32."""
    steps = prepare_photo(path)
    return steps, predict(model, scale(steps["28 × 28"][None]))[0]


def _read(path):
    """Return a file's picture in grey, upright, its longer side at most WORKED_ON. Raises PhotoError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at here
            picture = Image.open(path, formats=FORMATS)
        with picture:
            if picture.width * picture.height > LARGEST_PIXELS:
                raise PhotoError(
                    f"{path}: {picture.width} × {picture.height} pixels are more than {LARGEST_PIXELS:,}. "
                    "Save it smaller: 28 × 28 are left in the end."
                )
            picture.draft("RGB", (2 * WORKED_ON, 2 * WORKED_ON))  # a JPEG need not be unpacked whole
            if picture.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype("uint8"))
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
            picture.thumbnail((2 * WORKED_ON, 2 * WORKED_ON))
            white = Image.new("RGBA", picture.size, "white")  # behind what is transparent
            grey = Image.alpha_composite(white, picture).convert("L")
    except FileNotFoundError as error:
        raise PhotoError(f"{path}: there is no such file.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise PhotoError(
            f"{path}: cannot be read ({error.strerror}). Name a picture file that you may read."
        ) from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path}: not a picture, or none of {', '.join(FORMATS)}. Save it as one of these.") from error
    except PhotoError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # what damaged files make Pillow raise
        raise PhotoError(f"{path}: damaged, or too big to unpack ({error}). Save it again, as PNG or JPEG.") from error
    if min(grey.size) < IMAGE_SHAPE[0]:
        raise PhotoError(f"{path}: {grey.width} × {grey.height} pixels; at least 28 × 28 are needed.")
    grey.thumbnail((WORKED_ON, WORKED_ON))
    return grey


def _trim(path, garment_high):
    """Cut away the rows and columns at the edges that hold nothing of the garment."""
    rows, columns = (np.flatnonzero((garment_high > 0).mean(axis=axis) > 0.02) for axis in (1, 0))
    if not (len(rows) and len(columns)):
        raise PhotoError(f"{path}: what stands out from the background is too thin to be a garment. Go nearer to it.")
    return garment_high[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _shrink(trimmed):
    """Return the garment in the middle of 28 × 28 pixels, its longer side 28 and its shorter one at least 1."""
    height, width = (max(1, round(IMAGE_SHAPE[0] * side / max(trimmed.shape))) for side in trimmed.shape)
    small = Image.fromarray(trimmed).resize((width, height), Image.Resampling.BOX)
    return np.asarray(ImageOps.pad(small, IMAGE_SHAPE[:2], color=0))
