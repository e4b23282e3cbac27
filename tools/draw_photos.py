"""Draw the sample pictures for `predict_photo`, lessons/photos/*.png: garments as shapes on a wall in uneven light."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fmnist_utils import runs

FOLDER = runs.ROOT / "lessons" / "photos"
SIZE = (360, 440)  # pixels, width and height


def background(color, seed):
    """A plain wall in uneven light."""
    random = np.random.default_rng(seed)
    light = np.linspace(1.0, 0.94, SIZE[1])[:, None, None] * np.linspace(0.97, 1.0, SIZE[0])[None, :, None]
    grain = random.normal(0, 2, (SIZE[1], SIZE[0], 1))
    return Image.fromarray(np.clip(np.array(color) * light + grain, 0, 255).astype("uint8"))


def mirrored(points):
    """Add the right half of a shape whose left half is given, from top to bottom, in units of the picture's width."""
    return [*points, *[(1 - x, y) for x, y in reversed(points)]]


def polygon(draw, points, color):
    draw.polygon([(round(x * SIZE[0]), round(y * SIZE[0])) for x, y in points], fill=color)


def t_shirt(draw):
    shape = [(0.42, 0.22), (0.30, 0.25), (0.10, 0.44), (0.20, 0.56), (0.29, 0.48), (0.29, 1.02)]
    polygon(draw, mirrored(shape), (52, 78, 122))
    draw.ellipse([0.40 * SIZE[0], 0.15 * SIZE[0], 0.60 * SIZE[0], 0.30 * SIZE[0]], fill=(0, 0, 0, 0))


def trousers(draw):
    shape = [(0.34, 0.12), (0.28, 0.55), (0.30, 1.12), (0.44, 1.12), (0.49, 0.45)]
    polygon(draw, mirrored(shape), (70, 66, 60))


def dress(draw):
    shape = [(0.40, 0.10), (0.37, 0.10), (0.36, 0.26), (0.40, 0.48), (0.27, 1.10)]
    polygon(draw, mirrored(shape), (138, 40, 60))
    polygon(draw, mirrored([(0.43, 0.09), (0.44, 0.24)]), (0, 0, 0, 0))


def boot(draw):
    shape = [(0.42, 0.30), (0.72, 0.30), (0.73, 0.80), (0.72, 0.90), (0.55, 0.90), (0.50, 0.85), (0.45, 0.90)]
    polygon(draw, [*shape, (0.12, 0.90), (0.11, 0.80), (0.20, 0.72), (0.36, 0.66), (0.41, 0.55)], (92, 60, 36))


def bag(draw):
    box = [0.34 * SIZE[0], 0.24 * SIZE[0], 0.66 * SIZE[0], 0.80 * SIZE[0]]
    draw.arc(box, 180, 360, fill=(226, 206, 160), width=16)
    polygon(draw, mirrored([(0.16, 0.50), (0.13, 0.98)]), (226, 206, 160))


PICTURES = {  # name: shape, colour of the background, tilt in degrees
    "t_shirt": (t_shirt, (231, 229, 224), 0),
    "trousers": (trousers, (224, 228, 230), 0),
    "dress": (dress, (231, 229, 224), 0),
    "ankle_boot": (boot, (228, 226, 222), 0),
    "bag_on_dark": (bag, (38, 40, 44), 0),
    "t_shirt_tilted": (t_shirt, (231, 229, 224), 45),
    "dress_lying": (dress, (231, 229, 224), 90),
}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, (name, (draw_garment, color, tilt)) in enumerate(PICTURES.items()):
        layer = Image.new("RGBA", SIZE)
        draw_garment(ImageDraw.Draw(layer))
        layer = layer.rotate(tilt, Image.Resampling.BICUBIC)
        picture = background(color, seed)
        picture.paste(layer, mask=layer)
        picture = picture.filter(ImageFilter.GaussianBlur(1.5)).quantize(64).convert("RGB")
        picture.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
