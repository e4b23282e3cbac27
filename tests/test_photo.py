"""Your own photo: it becomes what the data set's images are, and what is no usable picture is refused in one line."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pillow_heif import from_pillow

from fmnist_utils import data, evaluation, photo, runs

TURNED = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"  # an EXIF entry: the camera was held a quarter turned
ODD = b"\x01\x00\0\x02\0\0\0\x04abc\0"  # another: a text in the place of the width
SHIRT = [(30, 10), (42, 14), (58, 14), (70, 10), (95, 30), (82, 40), (74, 33), (74, 92), (26, 92), (26, 33), (18, 40),
         (5, 30)]  # fmt: skip


def saved(folder, pixels, name="photo.png", **options):
    Image.fromarray(np.asarray(pixels, dtype="uint8")).save(folder / name, **options)
    return folder / name


def garment(background=230, ink=60, shape=(120, 200), place=np.s_[20:90, 50:80]):
    grey = np.full(shape, background)
    grey[place] = ink
    return grey


def scene(color, ink):
    """A T-shirt of one colour on a ground of another, with some grain."""
    grain = np.random.default_rng(0).normal(0, 3, (375, 300, 1))
    picture = Image.fromarray(np.clip(np.array(color) + grain, 0, 255).astype("uint8"))
    ImageDraw.Draw(picture).polygon([(45 + 2.1 * x, 56 + 2.6 * y) for x, y in SHIRT], fill=ink)
    return picture


@pytest.fixture(scope="module")
def model():
    return evaluation.load_model(runs.REFERENCE / runs.MODEL)


@pytest.mark.parametrize(("background", "ink"), [(230, 60), (20, 180), (120, 10), (160, 250)])
def test_the_garment_is_high_on_0_fills_the_longer_side_and_stands_in_the_middle(tmp_path, background, ink):
    steps = photo.prepare_photo(saved(tmp_path, garment(background, ink)))
    assert list(steps) == ["grey", "background removed", "trimmed", "28 × 28"]
    final = steps["28 × 28"]
    assert final.shape == (28, 28) and final.dtype == np.uint8
    assert steps["trimmed"].shape == (70, 30) and steps["trimmed"].min() >= 60
    rows, columns = np.flatnonzero(final.any(axis=1)), np.flatnonzero(final.any(axis=0))
    assert (rows[0], rows[-1]) == (0, 27) and (columns[0], columns[-1]) == (8, 19) and final[:, 9:19].min() >= 60


def test_a_wall_in_uneven_light_becomes_0(tmp_path):
    final = photo.prepare_photo(saved(tmp_path, garment() - np.linspace(0, 25, 200).astype(int)))["28 × 28"]
    assert final[:, :8].max() == 0 and final[:, 20:].max() == 0 and final[:, 9:19].min() > 100


@pytest.mark.parametrize(("name", "bits", "before"), [("a.jpg", 8, b""), ("a.png", 16, b""), ("a.jpg", 8, ODD)])
def test_a_photo_on_its_side_is_set_upright_by_its_exif(tmp_path, name, bits, before):
    boot = garment(place=np.s_[20:90, 50:65])
    boot[75:90, 50:100] = 60  # not the same upside down
    upright = photo.prepare_photo(saved(tmp_path, boot, "upright.png"))["28 × 28"]
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0" + bytes([len(before + TURNED) // 12]) + before + TURNED + bytes(4)
    turned = np.rot90(boot).astype(f"uint{bits}") * 2 ** (bits - 8)
    Image.fromarray(turned).save(tmp_path / name, exif=exif, quality=95)
    assert np.abs(upright.astype(int) - photo.prepare_photo(tmp_path / name)["28 × 28"]).mean() < 3


@pytest.mark.parametrize("ink", [0, 250])
def test_what_is_transparent_is_background_even_round_a_white_garment(tmp_path, ink):
    colors = np.dstack([np.full((100, 100, 3), ink), garment(0, 255, (100, 100), np.s_[30:70, 40:60])])
    steps = photo.prepare_photo(saved(tmp_path, colors))
    assert steps["trimmed"].shape == (40, 20) and steps["28 × 28"].max() >= 100


@pytest.mark.parametrize(
    ("color", "ink", "place", "fill"),
    [((150, 120, 90), (190, 190, 195), (120, 170, 180, 230), (25, 25, 30)),  # a dark print on a light shirt
     ((60, 140, 60), (200, 62, 62), (150, 180, 151, 181), (200, 62, 62)),  # red on green of the same grey
     ((225, 220, 215), (40, 50, 90), (0, 368, 300, 375), (120, 110, 100))],  # a table's edge below
)  # fmt: skip
def test_a_t_shirt_is_found_by_its_colour(tmp_path, model, color, ink, place, fill):
    picture = scene(color, ink)
    ImageDraw.Draw(picture).rectangle(place, fill=fill)
    _, probability = photo.predict_photo(saved(tmp_path, picture), model)
    assert data.CLASS_NAMES[probability.argmax()] == "T-shirt/top"


def test_an_image_of_the_data_sets_size_stays_as_it_is_dark_or_light(tmp_path):
    image = garment(0, np.linspace(20, 220, 12).astype("uint8"), (28, 28), np.s_[:, 8:20])
    for grey in (image, 255 - image):
        np.testing.assert_array_equal(photo.prepare_photo(saved(tmp_path, grey))["28 × 28"], image)


def test_iphones_heic_is_read(tmp_path):
    from_pillow(scene((225, 220, 215), (40, 50, 90))).save(tmp_path / "photo.heic", quality=90)
    png = photo.prepare_photo(saved(tmp_path, scene((225, 220, 215), (40, 50, 90))))["28 × 28"]
    assert np.abs(photo.prepare_photo(tmp_path / "photo.heic")["28 × 28"].astype(int) - png).mean() < 5


def test_warns_of_a_background_that_is_not_plain_and_of_low_confidence_alone(tmp_path, model):
    plain = scene((225, 220, 215), (40, 50, 90))
    with warnings.catch_warnings(action="error"):
        photo.predict_photo(saved(tmp_path, plain), model)
    checked = np.where(np.indices((375, 300)).sum(axis=0)[..., None] // 40 % 3 == 0, (20, 60, 120), plain)
    with pytest.warns(match=r"photo\.png: the background is not plain, \d+% of the rim differ"):
        photo.prepare_photo(saved(tmp_path, checked))
    with pytest.warns(match=r"photo\.png: only \d+% for "):
        photo.predict_photo(saved(tmp_path, plain.rotate(135, fillcolor=(225, 220, 215))), model)


def test_the_projects_pictures_are_recognised_where_they_stand_as_in_the_data_set(model):
    paths = (runs.ROOT / "lessons" / "photos").glob("*.png")
    answers = {path.stem: data.CLASS_NAMES[photo.predict_photo(path, model)[1].argmax()] for path in paths}
    right = {"t_shirt": "T-shirt/top", "trousers": "Trouser", "dress": "Dress", "ankle_boot": "Ankle boot"}
    assert answers.items() >= (right | {"bag_on_dark": "Bag"}).items()
    assert answers["t_shirt_tilted"] != "T-shirt/top" and answers["dress_lying"] != "Dress", "what notebook 04 tells"


def encoded(kind, shape=(60, 60)):
    buffer = io.BytesIO()
    Image.fromarray(garment(shape=shape, place=np.s_[10:50, 20:40]).astype("uint8")).save(buffer, kind)
    return buffer.getvalue()


HUGE, BIGGER = (encoded("GIF")[:6] + side.to_bytes(2, "little") * 2 + encoded("GIF")[10:] for side in (60_000, 9_000))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"photo\.png: cannot be read \(.*\)\. Name a picture of PNG, JPEG"), (encoded("TIFF"), "cannot identify"),
     (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "cannot identify"),  # Pillow would start Ghostscript
     (encoded("PNG")[:70], "cannot be read"), (encoded("JPEG")[:300], "cannot"), (encoded("BMP")[:400], "cannot"),
     (HUGE, "bomb|allowed"), (BIGGER, "9000 × 9000; allowed: 28 × 28 to 80,000,000 in all"),
     (encoded("PNG", (20, 200)), "20 × 200; allowed: 28 × 28 to"), (encoded("PNG", (40, 2000)), "no thin strip"),
     (None, "No such file")],
)  # fmt: skip
def test_a_malformed_missing_or_oversized_picture_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(photo.PhotoError, match=message) as caught:
        photo.prepare_photo(tmp_path / "photo.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [np.s_[:, 295:305], np.s_[300:302, :], np.s_[:0]], ids=["upright", "lying", "none"])
def test_a_line_or_an_empty_wall_is_no_garment(tmp_path, place):
    with pytest.raises(photo.PhotoError, match=r"too thin to be a garment|nothing stands out .* Lay it on another"):
        photo.prepare_photo(saved(tmp_path, garment(shape=(600, 600), place=place)))
