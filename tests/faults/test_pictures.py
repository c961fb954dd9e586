"""Pictures that are read wrong elsewhere, rows D5 to D11 of the table of faults."""

import numpy as np
import pytest
from data.folders import GREY, RED, make_folder, opened, plain, save
from data.sound_folder import check, named
from PIL import Image

from vit_jax import ViT
from vit_jax.config import Config
from vit_jax.data.source import DataConfig, DataError
from vit_jax.inference.images import find_images, unlabelled
from vit_jax.inference.saved import SavedModel


@pytest.fixture
def root(tmp_path):
    """See `make_folder`."""
    return make_folder(tmp_path / "data")


def image_of(root, name, **fields):
    """The picture of that name as a training on the folder gets it: [h, w, c]."""
    source = opened(root, **fields)
    names = [source.name(i).rpartition("/")[2] for i in range(len(source))]
    return source.images[names.index(name)]


def predicted_on(path, height, width):
    """The same picture as a prediction gets it."""
    config = Config(
        model=ViT(image_size=(height, width), channels=3), data=DataConfig(resize="squash")
    )
    model = SavedModel("model", "model", config, params={}, class_names=None)
    return unlabelled(find_images([str(path)]), model).image(0)


@pytest.mark.fault(
    "A photograph says in its EXIF that the camera was held upright",
    "It is turned as people see it, in training and prediction alike",
)
def test_d5_a_turned_picture_is_seen_as_people_see_it(root):
    exif = Image.Exif()
    exif[274] = 6
    stored = np.zeros((4, 8, 3), np.uint8)
    stored[:, :4] = RED  # left as stored, above as seen
    path = root / "train" / "a" / "0.jpg"
    save(path, stored, format="JPEG", exif=exif, quality=100)
    image = image_of(root, "0.jpg", image_size=(8, 4))
    np.testing.assert_allclose(image[1, :], [RED] * 4, atol=12)
    np.testing.assert_allclose(image[6, :], 0, atol=12)
    np.testing.assert_array_equal(predicted_on(path, 8, 4), image)


@pytest.mark.fault(
    "A JPEG has the four colours of a printer",
    "It becomes RGB, in training and prediction alike",
)
def test_d6_cmyk_becomes_rgb(root):
    path = root / "train" / "a" / "0.jpg"
    save(path, Image.new("CMYK", (4, 4), (255, 0, 0, 0)), format="JPEG", quality=100)
    image = image_of(root, "0.jpg")
    np.testing.assert_allclose(image[0, 0], [0, 255, 255], atol=2)
    np.testing.assert_array_equal(predicted_on(path, 4, 4), image)


RAMP = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)


@pytest.mark.fault(
    "Pictures have 16 bits per channel, all of them or one among others of 8",
    "They keep their range, or are scaled to 8 bits, and are never clipped",
)
def test_d7_sixteen_bits_keep_their_range(tmp_path):
    for name, options in (("a/1.png", {}), ("b/1.tif", {"format": "TIFF"})):
        save(tmp_path / "train" / name, Image.fromarray(RAMP), **options)
    source = opened(tmp_path)
    assert source.images.dtype == np.uint16
    for image in source.images:
        np.testing.assert_array_equal(image[..., 0], RAMP)
    # Among pictures of 8 bits they are scaled to those, never clipped.
    save(tmp_path / "train" / "b" / "2.png", plain(GREY))
    source = opened(tmp_path)
    assert source.images.dtype == np.uint8
    np.testing.assert_array_equal(source.images[0, ..., 0], RAMP // 256)


@pytest.mark.fault(
    "Pictures hold floating-point numbers, all of them or one among others of 8 bits",
    "They are kept as they are, or refused with what to save them as",
)
def test_d7_floats_are_kept_or_refused_but_never_clipped(tmp_path):
    pixels = np.linspace(-1000, 3000, 16, dtype=np.float32).reshape(4, 4)  # as of a CT scan
    for name in "ab":
        save(tmp_path / "train" / name / "1.tif", Image.fromarray(pixels), format="TIFF")
    source = opened(tmp_path)
    assert source.images.dtype == np.float32
    np.testing.assert_array_equal(source.images[1, ..., 0], pixels)
    save(tmp_path / "train" / "b" / "2.png", plain(GREY))
    message = r"/1\.tif holds floating-point pixels, whose range is not known: save it with 8 or 16"
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


@pytest.mark.fault(
    "Pictures are transparent, in colours, in grey, or by their palette",
    "They lie on the colour of data.background, in training and prediction alike",
)
@pytest.mark.parametrize(
    ("background", "red", "grey"),
    [("white", [233, 169, 189], [201] * 3), ("black", [80, 16, 36], [48] * 3)],
)
def test_d8_transparent_pictures_lie_on_the_background(root, background, red, grey):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, *RED])
    palette.info["transparency"] = bytes([255, 102])  # an alpha of 0.4
    pictures = {
        "0a": (Image.new("RGBA", (4, 4), (*RED, 102)), red),
        "0b": (palette, red),
        "0c": (Image.new("LA", (4, 4), (GREY, 102)), grey),
    }
    for name, (picture, _) in pictures.items():
        save(root / "train" / "a" / name, picture)
    for name, (_, expected) in pictures.items():
        image = image_of(root, name, background=background)
        np.testing.assert_allclose(image[0, 0], expected, atol=1)
        if background == "white":  # which published weights are used with
            np.testing.assert_array_equal(predicted_on(root / "train/a" / name, 4, 4), image)


@pytest.mark.fault(
    "A picture has several frames",
    "The first one is used, which vit-jax data check notes",
)
@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_d9_an_animation_is_its_first_frame(root, file_format):
    frames = [Image.fromarray(plain(colour)) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    path = root / "train" / "a" / f"0.{file_format.lower()}"
    save(path, frames[0], format=file_format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(image_of(root, path.name)[0, 0], RED)
    noted = named(check(root).notes, "of several frames or pages: the first is used")
    assert noted == [f"train/a/{path.name}"]


@pytest.mark.fault(
    "Pictures are grey, of one bit, or of one pixel",
    "They are read, and those smaller than a patch warned of",
)
def test_d10_grey_one_bit_and_one_pixel_work(root):
    for name, picture in {
        "grey": plain(GREY, 16, 16),
        "bits": Image.new("1", (16, 16), 1),
        "dot": plain(RED, 1, 1),
    }.items():
        save(root / "train" / "b" / name, picture)
    assert (image_of(root, "grey") == [GREY] * 3).all()
    assert (image_of(root, "bits") == [255] * 3).all()
    assert (image_of(root, "dot") == RED).all()
    small = named(check(root).warnings, "below 16 pixels")
    assert "train/b/dot (1 x 1)" in small
    assert not [name for name in small if name.startswith(("train/b/grey", "train/b/bits"))]


@pytest.mark.fault(
    "Pictures with colours are asked for in one channel",
    "They become grey by the usual weights of the colours",
)
def test_d10_pictures_with_colours_become_grey_where_the_config_says_so(root):
    source = opened(root, channels=1)
    assert source.images.shape == (6, 4, 4, 1)
    # By 0.299 of the red, as Pillow rounds it.
    assert source.images[:, 0, 0, 0].tolist() == [round(0.299 * n) for n in (4, 6, 3, 2, 5, 1)]


@pytest.mark.fault(
    "The name of a picture has the ending of another format, in capitals, or none",
    "The content decides what it is",
)
@pytest.mark.parametrize("name", ["0.JPG", "0.jpeg", "0.txt", "0"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_d11_the_content_decides_not_the_name(root, name, file_format):
    save(root / "train" / "a" / name, plain((40, 40, 40)), format=file_format)
    np.testing.assert_allclose(image_of(root, name)[0, 0], 40, atol=1)
