"""Your own photo: it becomes what the data set's images are, and what is no usable picture is refused in one line."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pillow_heif import from_pillow
from shipped import shipped

from fmnist_utils import data, evaluation, photo, runs

PHOTOS = shipped("lessons/photos/*.png")


def saved(folder, grey, name="photo.png", **options):
    Image.fromarray(np.asarray(grey, dtype="uint8")).save(folder / name, **options)
    return folder / name


def garment(background=230, ink=60, shape=(120, 200), place=np.s_[20:90, 50:80]):
    grey = np.full(shape, background)
    grey[place] = ink
    return grey


@pytest.mark.parametrize(("background", "ink"), [(230, 60), (20, 180), (120, 10), (160, 250)])
def test_the_garment_is_high_on_0_fills_the_longer_side_and_stands_in_the_middle(tmp_path, background, ink):
    steps = photo.prepare_photo(saved(tmp_path, garment(background, ink)))
    assert list(steps) == ["grey", "background removed", "trimmed", "28 × 28"]
    final = steps["28 × 28"]
    assert final.shape == (28, 28) and final.dtype == np.uint8
    assert steps["trimmed"].shape == (70, 30) and steps["trimmed"].min() >= 60
    rows, columns = np.flatnonzero(final.any(axis=1)), np.flatnonzero(final.any(axis=0))
    assert (rows[0], rows[-1]) == (0, 27) and (columns[0], columns[-1]) == (8, 19)
    assert final[:, :8].max() == 0 and final[:, 9:19].min() >= 60


@pytest.fixture(scope="module")
def model():
    return evaluation.load_model(runs.REFERENCE / runs.MODEL)


def test_a_wall_in_uneven_light_becomes_0(tmp_path):
    wall = garment() - np.linspace(0, 25, 200).astype(int)
    final = photo.prepare_photo(saved(tmp_path, wall))["28 × 28"]
    assert final[:, :8].max() == 0 and final[:, 20:].max() == 0 and final[:, 9:19].min() > 100


def test_a_photo_on_its_side_is_set_upright_by_its_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held a quarter turned
    boot = garment(place=np.s_[20:90, 50:65])
    boot[75:90, 50:100] = 60  # not the same upside down
    upright = photo.prepare_photo(saved(tmp_path, boot, "upright.png"))["28 × 28"]
    turned = photo.prepare_photo(saved(tmp_path, np.rot90(boot), "turned.jpg", exif=exif, quality=95))["28 × 28"]
    assert np.abs(upright.astype(int) - turned).mean() < 3


def test_a_picture_of_16_bits_is_not_cut_off_at_255(tmp_path):
    Image.fromarray(garment().astype("uint16") * 256).save(tmp_path / "deep.png")
    plain = photo.prepare_photo(saved(tmp_path, garment()))["28 × 28"]
    np.testing.assert_array_equal(photo.prepare_photo(tmp_path / "deep.png")["28 × 28"], plain)


def test_a_belt_is_thin_and_still_there(tmp_path):
    belt = garment(shape=(300, 600), place=np.s_[140:148, 20:580])
    assert photo.prepare_photo(saved(tmp_path, belt))["28 × 28"].max() > 100


@pytest.mark.parametrize("ink", [0, 250])
def test_what_is_transparent_is_background_even_round_a_white_garment(tmp_path, ink):
    colors = np.full((100, 100, 4), ink, "uint8")
    colors[..., 3] = 0
    colors[30:70, 40:60, 3] = 255
    Image.fromarray(colors).save(tmp_path / "cut_out.png")
    steps = photo.prepare_photo(tmp_path / "cut_out.png")
    assert steps["trimmed"].shape == (40, 20) and steps["28 × 28"].max() >= 100


def scene(color, ink, size=(300, 375), box=(0.15, 0.15, 0.85, 0.85)):
    """A T-shirt of one colour on a ground of another, with some grain."""
    outline = [(30, 10), (42, 14), (58, 14), (70, 10), (95, 30), (82, 40), (74, 33), (74, 92), (26, 92), (26, 33),
               (18, 40), (5, 30)]  # fmt: skip
    grain = np.random.default_rng(0).normal(0, 3, (size[1], size[0], 1))
    picture = Image.fromarray(np.clip(np.array(color) + grain, 0, 255).astype("uint8"))
    left, top, right, bottom = box
    points = [
        ((left + x / 100 * (right - left)) * size[0], (top + y / 100 * (bottom - top)) * size[1]) for x, y in outline
    ]
    ImageDraw.Draw(picture).polygon(points, fill=ink)
    return picture


def print_on_a_light_shirt():
    picture = scene((150, 120, 90), (190, 190, 195))
    ImageDraw.Draw(picture).ellipse((120, 170, 180, 230), fill=(25, 25, 30))
    return picture


def table_edge_below():
    picture = scene((225, 220, 215), (40, 50, 90))
    ImageDraw.Draw(picture).rectangle((0, 352, 300, 375), fill=(120, 110, 100))
    return picture


def framed():
    picture = Image.new("RGB", (360, 435), "white")
    picture.paste(scene((10, 10, 10), (200, 200, 200)), (30, 30))
    return picture


SCENES = {
    "light shirt with a dark print": print_on_a_light_shirt,
    "red on green of the same grey": lambda: scene((60, 140, 60), (200, 62, 62)),
    "table edge below": table_edge_below,
    "white frame round a dark picture": framed,
}


@pytest.mark.parametrize("name", SCENES)
def test_a_t_shirt_is_found_by_its_colour(tmp_path, model, name):
    SCENES[name]().save(tmp_path / "scene.png")
    _, probability = photo.predict_photo(tmp_path / "scene.png", model)
    assert data.CLASS_NAMES[probability.argmax()] == "T-shirt/top"


def test_an_image_of_the_data_sets_size_stays_as_it_is_dark_or_light(tmp_path):
    image = np.zeros((28, 28), "uint8")
    image[:, 8:20] = np.linspace(20, 220, 12).astype("uint8")
    for name, grey in (("dark", image), ("light", 255 - image)):
        steps = photo.prepare_photo(saved(tmp_path, grey, f"{name}.png"))
        np.testing.assert_array_equal(steps["28 × 28"], image, name)


def test_iphones_heic_is_read(tmp_path):
    picture = scene((225, 220, 215), (40, 50, 90))
    from_pillow(picture).save(tmp_path / "photo.heic", quality=90)
    picture.save(tmp_path / "photo.png")
    heic, png = (photo.prepare_photo(tmp_path / f"photo.{end}")["28 × 28"] for end in ("heic", "png"))
    assert np.abs(heic.astype(int) - png).mean() < 5


def test_a_phone_of_50_megapixels_is_read(tmp_path):
    Image.fromarray(garment().astype("uint8")).resize((8192, 6144)).save(tmp_path / "phone.jpg", quality=50)
    assert photo.prepare_photo(tmp_path / "phone.jpg")["28 × 28"].any(axis=1).all()


def told(path, model):
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        photo.predict_photo(path, model)
    return [str(message.message) for message in messages]


def test_warns_of_a_background_that_is_not_plain_and_of_low_confidence_alone(tmp_path, model):
    plain = scene((225, 220, 215), (40, 50, 90))
    plain.save(tmp_path / "plain.png")
    assert told(tmp_path / "plain.png", model) == []
    checked = np.asarray(plain).copy()
    checked[np.indices((375, 300)).sum(axis=0) // 40 % 3 == 0] = (20, 60, 120)
    Image.fromarray(checked).save(tmp_path / "checked.png")
    assert any(
        "not plain" in message and "% of the rim" in message for message in told(tmp_path / "checked.png", model)
    )
    plain.rotate(135, fillcolor=(225, 220, 215)).save(tmp_path / "tilted.png")
    messages = told(tmp_path / "tilted.png", model)
    assert len(messages) == 1 and "tilted.png: only " in messages[0]


def test_the_shipped_pictures_are_recognised_where_they_stand_as_in_the_data_set(model):
    answers = {}
    for path in PHOTOS:
        _, probability = photo.predict_photo(path, model)
        assert probability.shape == (10,) and probability.sum() == pytest.approx(1, abs=1e-5)
        answers[path.stem] = data.CLASS_NAMES[probability.argmax()]
    upright = {"t_shirt": "T-shirt/top", "trousers": "Trouser", "dress": "Dress", "ankle_boot": "Ankle boot"}
    assert {name: answers[name] for name in upright} == upright and answers["bag_on_dark"] == "Bag"
    assert answers["t_shirt_tilted"] != "T-shirt/top" and answers["dress_lying"] != "Dress", "what notebook 04 tells"
    assert sum(path.stat().st_size for path in PHOTOS) < 500_000


# ------------------------------------------------------------------------------------------- what is refused


def bomb(width=100_000, height=100_000):
    """A PNG of a few bytes that says it holds ten thousand million pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def encoded(kind, shape=(60, 60)):
    buffer = io.BytesIO()
    Image.fromarray(garment(shape=shape, place=np.s_[10:50, 20:40]).astype("uint8")).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture. Save it anew, as one of PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not a picture"),  # Pillow would start Ghostscript
        (encoded("TIFF"), "as one of PNG, JPEG, WEBP, BMP, GIF, HEIF"),
        (encoded("PNG")[:70], "Save it anew"),
        (encoded("JPEG")[:300], "Save it anew"),
        (encoded("BMP")[:400], "Save it anew"),
        (bomb(), "allowed|bomb"),
        (bomb(9_000, 9_000), "9000 × 9000; allowed: 28 × 28 to 80,000,000 in all"),
        (encoded("PNG", (20, 200)), "20 × 200; allowed: 28 × 28 to"),
        (encoded("PNG", (40, 2000)), "no thin strip"),
    ],
)
def test_a_malformed_or_oversized_picture_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(photo.PhotoError, match=message) as caught:
        photo.prepare_photo(tmp_path / "photo.png")
    assert "\n" not in str(caught.value) and "photo.png" in str(caught.value)


@pytest.mark.parametrize("place", [np.s_[:, 295:305], np.s_[300:302, :]], ids=["upright", "lying"])
def test_a_line_is_no_garment(tmp_path, place):
    with pytest.raises(photo.PhotoError, match=r"too thin to be a garment|nothing stands out"):
        photo.prepare_photo(saved(tmp_path, garment(shape=(600, 600), place=place)))


def test_a_folder_is_told(tmp_path):
    with pytest.raises(photo.PhotoError, match=r"cannot be read .*Name a picture that"):
        photo.prepare_photo(tmp_path)


def test_a_missing_file_and_an_empty_wall_are_told(tmp_path):
    with pytest.raises(photo.PhotoError, match=r"nowhere\.png: cannot be read \(No such file or directory\)\. Name"):
        photo.prepare_photo(tmp_path / "nowhere.png")
    with pytest.raises(photo.PhotoError, match=r"nothing stands out from the background\. Lay it on another"):
        photo.prepare_photo(saved(tmp_path, garment(ink=215)))
