"""Your own photo: it becomes what the data set's images are, and what is no usable picture is refused in one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fmnist_utils import data, evaluation, photo, runs

PHOTOS = sorted((runs.ROOT / "lessons" / "photos").glob("*.png"))


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
    assert list(steps) == ["grey", "background 0", "trimmed", "28 × 28"]
    final = steps["28 × 28"]
    assert final.shape == (28, 28) and final.dtype == np.uint8
    assert steps["trimmed"].shape == (70, 30) and steps["trimmed"].min() == 255
    rows, columns = np.flatnonzero(final.any(axis=1)), np.flatnonzero(final.any(axis=0))
    assert (rows[0], rows[-1]) == (0, 27) and (columns[0], columns[-1]) == (8, 19)
    assert final[:, :8].max() == 0 and final.max() == 255


def test_a_wall_in_uneven_light_becomes_0(tmp_path):
    wall = garment() - np.linspace(0, 25, 200).astype(int)
    final = photo.prepare_photo(saved(tmp_path, wall))["28 × 28"]
    assert final[:, :8].max() == 0 and final[:, 20:].max() == 0 and final[:, 9:19].min() > 150


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
    assert photo.prepare_photo(saved(tmp_path, belt))["28 × 28"].max() > 200


def test_what_is_transparent_counts_as_a_white_background(tmp_path):
    colors = np.zeros((100, 100, 4), "uint8")
    colors[30:70, 40:60, 3] = 255  # black, and nothing around it
    Image.fromarray(colors).save(tmp_path / "cut_out.png")
    assert photo.prepare_photo(tmp_path / "cut_out.png")["trimmed"].shape == (40, 20)


@pytest.fixture(scope="module")
def model():
    return evaluation.load_model(runs.REFERENCE / runs.MODEL)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture, or none of PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not a picture"),  # Pillow would start Ghostscript
        (encoded("TIFF"), "none of PNG, JPEG, WEBP, BMP"),
        (encoded("PNG")[:70], "damaged"),
        (encoded("JPEG")[:300], "damaged|not a picture"),
        (encoded("BMP")[:400], "damaged"),
        (bomb(), "damaged, or too big|pixels are more than"),
        (bomb(9_000, 9_000), "9000 × 9000 pixels are more than 50,000,000. Save it smaller"),
        (encoded("PNG", (20, 200)), "200 × 20 pixels; at least 28 × 28"),
    ],
)
def test_a_malformed_or_oversized_picture_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(photo.PhotoError, match=message) as caught:
        photo.prepare_photo(tmp_path / "photo.png")
    assert "\n" not in str(caught.value) and "photo.png" in str(caught.value)


@pytest.mark.parametrize("place", [np.s_[:, 295:305], np.s_[300:302, :]], ids=["upright", "lying"])
def test_a_line_is_no_garment(tmp_path, place):
    with pytest.raises(photo.PhotoError, match=r"too thin to be a garment|nothing of any size"):
        photo.prepare_photo(saved(tmp_path, garment(shape=(600, 600), place=place)))


def test_a_folder_is_told(tmp_path):
    with pytest.raises(photo.PhotoError, match=r"cannot be read .*Name a picture file"):
        photo.prepare_photo(tmp_path)


def test_a_missing_file_and_an_empty_wall_are_told(tmp_path):
    with pytest.raises(photo.PhotoError, match=r"nowhere\.png: there is no such file"):
        photo.prepare_photo(tmp_path / "nowhere.png")
    with pytest.raises(photo.PhotoError, match=r"nothing of any size stands out from the background\. Lay the"):
        photo.prepare_photo(saved(tmp_path, garment(ink=215)))
