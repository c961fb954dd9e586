"""What a file of a folder becomes: modes, depths, EXIF, greyscale, bad files, resizing."""

import io

import numpy as np
import pytest
from data.folders import GREY, RED, make_folder, opened, plain, png, save
from PIL import Image

from vit_jax.data.decode import BadImageError, Pixels, decode, whole_box
from vit_jax.data.source import DataError


@pytest.fixture
def root(tmp_path):
    """See `make_folder`."""
    return make_folder(tmp_path / "data")


def pixel_of(root, content, name="picture", **options):
    """The first pixel of a file as the folder gives it, beside other files that are RGB."""
    save(root / "val" / "a" / name, content, **options)
    save(root / "val" / "b" / "other.png", plain(RED))
    image = opened(root, "val").images[0]
    assert (image == image[0, 0]).all()
    return image[0, 0].tolist()


@pytest.mark.parametrize("name", ["picture", "picture.jpg", "PICTURE.PNG", "notes.txt"])
@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_the_content_decides_what_a_file_is(root, name, file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    pixel = pixel_of(root, plain(RED), name, format=file_format, **options)
    assert pixel == list(RED)


def palette(colour, transparent=False):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, *colour])
    if transparent:
        image.info["transparency"] = bytes([255, 102])
    return image


OVER_WHITE = [round(0.4 * c + 0.6 * 255) for c in RED]  # an alpha of 102 is 0.4


MODES = {
    "1": (Image.new("1", (4, 4), 1), [255] * 3),
    "L": (Image.new("L", (4, 4), GREY), [GREY] * 3),
    "LA": (Image.new("LA", (4, 4), (GREY, 102)), [round(0.4 * GREY + 0.6 * 255)] * 3),
    "RGB": (Image.new("RGB", (4, 4), RED), list(RED)),
    "RGBA": (Image.new("RGBA", (4, 4), (*RED, 102)), OVER_WHITE),
    "RGBA-clear": (Image.new("RGBA", (4, 4), (*RED, 0)), [255] * 3),
    "P": (palette(RED), list(RED)),
    "P-transparent": (palette(RED, transparent=True), OVER_WHITE),
    "I;16": (Image.fromarray(np.full((4, 4), 0x78FF, np.uint16)), [0x78] * 3),
    "RGB-16-bit": (png(4, 4, 16, 2, [bytes([200, 9, 40, 9, 90, 9] * 4)] * 4), list(RED)),
    "L-16-bit": (png(4, 4, 16, 0, [bytes([120, 9] * 4)] * 4), [120] * 3),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_png_becomes_rgb(root, mode):
    content, expected = MODES[mode]
    np.testing.assert_allclose(pixel_of(root, content), expected, rtol=0, atol=1)


def test_a_colour_marked_as_transparent_becomes_white(root):
    assert pixel_of(root, plain(RED), transparency=RED) == [255] * 3
    assert pixel_of(root, plain(RED), transparency=(0, 0, 0)) == list(RED)


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(root, file_format):
    content = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    options = {"quality": 100} if file_format == "JPEG" else {}
    pixel = pixel_of(root, content, format=file_format, **options)
    np.testing.assert_allclose(pixel, [255, 0, 0], atol=2)


def test_sixteen_bits_are_scaled_and_not_clipped(root):
    ramp = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    for split in ("train", "val"):
        save(root / split / "a" / "0.tif", Image.fromarray(ramp), format="TIFF")
        save(root / split / "b" / "0.png", Image.fromarray(ramp))
    for image in opened(root, "val").images:
        np.testing.assert_array_equal(image[..., 0], ramp // 256)


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, "floating-point"), (np.int32, "32-bit integer")]
)
def test_pixels_without_a_known_range_are_refused(root, dtype, kind):
    save(root / "train" / "a" / "scan", Image.fromarray(np.ones((4, 4), dtype)), format="TIFF")
    with pytest.raises(DataError, match=f"a/scan holds {kind} pixels, .* 8 or 16 bits"):
        opened(root)


def test_an_animation_is_its_first_frame(root):
    frames = [Image.fromarray(plain(colour)) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    options = {"format": "GIF", "save_all": True, "append_images": frames[1:], "duration": 100}
    assert pixel_of(root, frames[0], **options) == list(RED)


UPRIGHT = np.arange(24, dtype=np.uint8).reshape(4, 6)
STORED = {  # what a camera stores so that a viewer shows UPRIGHT (EXIF 2.32, tag 274)
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),  # a viewer turns it clockwise
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_are_turned_as_their_exif_says(tmp_path, orientation, dtype):
    exif = Image.Exif()
    exif[274] = orientation
    scale = 256 if dtype == np.uint16 else 1
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation].astype(dtype) * scale))
    for name in ("a", "b"):
        save(tmp_path / "train" / name / "1.png", stored, exif=exif)
    image = opened(tmp_path, image_size=(4, 6)).images[0]
    assert image.dtype == dtype
    np.testing.assert_array_equal(image[..., 0], UPRIGHT.astype(dtype) * scale)


def test_all_greyscale_stays_greyscale(tmp_path):
    contents = {
        "a/1": Image.new("1", (4, 4), 1),
        "a/2": Image.new("L", (4, 4), GREY),
        "b/1": Image.new("LA", (4, 4), (0, 102)),
        "b/2": Image.fromarray(np.full((4, 4), 0x78FF, np.uint16)),
    }
    for name, content in contents.items():
        save(tmp_path / "train" / name, content)
    source = opened(tmp_path)
    assert source.images.shape == (4, 4, 4, 1)
    assert source.images[:, 0, 0, 0].tolist() == [255, 153, GREY, 0x78]


def test_the_training_split_decides_about_greyscale(root):
    for name in "ab":
        save(root / "val" / name / "1.png", plain(GREY))
        save(root / "grey" / name / "1.png", plain(GREY))
    np.testing.assert_array_equal(opened(root, "val").images, np.full((2, 4, 4, 3), GREY))
    assert opened(root, "val", train_split="grey[:50%]").images.shape == (2, 4, 4, 1)
    with pytest.raises(
        DataError, match=r"a/1\.png has colours, but the training images .* data\.channels=3"
    ):
        opened(root, "train", train_split="grey")


# The warning has to become an error by itself, not by what pytest makes of warnings.
@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [12_000, 40_000])  # Pillow warns of the one, refuses the other
def test_decompression_bombs_are_refused(root, side):
    save(root / "train" / "b" / "bomb.png", png(side, side, 1, 0, []))
    claim = "144,000,000|12000x12000" if side == 12_000 else "more than 89,478,485"
    message = rf"bomb\.png claims ({claim}) pixels, above data\.max_pixels=50,000,000"
    with pytest.raises(BadImageError, match=message):
        opened(root)


def jpeg(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    save(folder / "whole.jpg", noise, format="JPEG")
    return (folder / "whole.jpg").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is not an image \(it is empty\)"),
        (b"<!DOCTYPE html><title>404</title>", r"is not an image \(an HTML page of 33 bytes, "),
        (b"version https://git-lfs.github.com/spec/v1\n", r"\(a git-lfs pointer: .*git lfs pull"),
        (b"anything else", r"is not an image \(13 bytes that Pillow does not know\)"),
        ("half a JPEG", r"cannot be decoded \(.*truncated.*\): it is damaged"),
        (png(4, 4, 8, 2, [])[:40], "bad.jpg"),
    ],
    ids=["empty", "html", "lfs", "other", "half", "png-header"],
)
def test_a_bad_file_is_named(root, tmp_path, content, message):
    content = jpeg(tmp_path)[:2000] if content == "half a JPEG" else content
    save(root / "train" / "b" / "bad.jpg", content)
    with pytest.raises(DataError, match=message) as error:
        opened(root)
    assert str(root / "train" / "b" / "bad.jpg") in str(error.value)
    assert "remove it" in str(error.value)


def resized_by_torch(image, height, width, mode):
    """float [h, w, c], by antialiased interpolation."""
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    pixels = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)[None]
    options = {"mode": mode, "antialias": True, "align_corners": False}
    resized = torch.nn.functional.interpolate(pixels, (height, width), **options)
    return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("stored", "size", "covering"),
    [
        ((40, 64), (20, 20), (20, 32)),
        ((64, 40), (20, 20), (32, 20)),
        ((20, 32), (40, 40), (40, 64)),
        ((32, 32), (8, 16), (16, 16)),
        ((32, 32), (16, 8), (16, 16)),
    ],
)
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("rounding", ["none", "even"])
def test_resizing_equals_torch(tmp_path, stored, size, covering, resize, mode, rounding):
    # Neither bright nor dark, so that what the cubic overshoots is never clipped in between.
    image = np.random.default_rng(0).integers(80, 176, (*stored, 3)).astype(np.uint8)
    for name in "ab":
        save(tmp_path / "train" / name / "1.png", image)
    expected = resized_by_torch(image, *(covering if resize == "crop" else size), mode)
    top, left = (expected.shape[0] - size[0]) // 2, (expected.shape[1] - size[1]) // 2
    expected = expected[top : top + size[0], left : left + size[1]]
    fields = {"resize": resize, "interpolation": mode, "crop_rounding": rounding}
    found = opened(tmp_path, image_size=size, **fields).images[0]
    assert found.shape == (*size, 3)
    # Pillow rounds to whole numbers after each axis, PyTorch not at all.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.5)


def test_the_bicubic_filter_is_the_default(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8)
    for name in "ab":
        save(tmp_path / "train" / name / "1.png", image)
    default, bicubic, bilinear = (
        opened(tmp_path, image_size=20, **fields).images[0]
        for fields in ({}, {"interpolation": "bicubic"}, {"interpolation": "bilinear"})
    )
    assert np.array_equal(default, bicubic)
    assert not np.array_equal(default, bilinear)


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "lanczos", "hamming"])
def test_a_chosen_box_is_resized_by_the_filter_asked_for(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3)).astype(np.uint8))
    file, box = io.BytesIO(), (3.5, 2.0, 50.0, 33.25)
    image.save(file, "PNG")
    pixels = Pixels(16, 24, crop_fraction=0.5, crop_rounding="even", interpolation=name)
    found = decode(file, "picture", pixels, lambda width, height: box)
    expected = image.resize((24, 16), Image.Resampling[name.upper()], box=box)
    assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("rounding", ["none", "even", "down"])
def test_a_picture_far_wider_than_high_is_cut(root, rounding):
    strip = np.zeros((1, 30_000, 3), np.uint8)
    strip[:, 14_990:15_010] = RED
    save(root / "val" / "a" / "1.png", strip)
    save(root / "val" / "b" / "1.png", strip.transpose(1, 0, 2))
    # Whole, at this height, it would have 2.7 thousand million pixels.
    images = opened(root, "val", image_size=300, crop_rounding=rounding).images
    assert (images == np.array(RED)).all()


@pytest.mark.parametrize("size", [32, 224, 448, (224, 160)])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_the_centre_lies_inside_pictures_of_every_size(size, fraction):
    height, width = (size, size) if isinstance(size, int) else size
    pixels = Pixels(height, width, crop_fraction=fraction)
    for across in range(130, 520, 3):
        for down in range(130, 520, 3):
            left, top, right, bottom = whole_box((across, down), pixels)
            # As they are, without a tolerance: Pillow has none.
            assert 0 <= left < right <= across
            assert 0 <= top < bottom <= down


@pytest.mark.parametrize("across", [450, 500])
def test_photographs_of_usual_sizes_can_be_read_at_224(root, across):
    save(root / "train" / "a" / "0.png", plain(RED, 239 if across == 500 else 450, across))
    image = opened(root, image_size=224).images[0]
    assert image.shape == (224, 224, 3)
