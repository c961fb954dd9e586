"""Faulty images and folders, one test a row of the project's table of faults (D1 to D20).

D15 is in test_check.py, D16 in test_table.py, D17 and D18 in test_prepare_cifar.py, D19 in
test_archive.py.
"""

import numpy as np
import pytest
from data.folders import GREY, RED, make_folder, opened, plain, save
from data.test_folder_pixels import png
from PIL import Image

from vit_jax.data.catalog import open_source
from vit_jax.data.decode import BadImageError
from vit_jax.data.encoded import decode_all
from vit_jax.data.source import DataConfig, DataError


@pytest.fixture
def root(tmp_path):
    """See `make_folder`."""
    return make_folder(tmp_path / "data")


def jpeg(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    save(tmp_path / "whole.jpg", noise, format="JPEG")
    return (tmp_path / "whole.jpg").read_bytes()


def left_out(root):
    """What `on_bad_image="skip"` leaves out, by file name, and the names that stay in place."""
    config = DataConfig(name="folder", root=str(root), train_split="train", image_size=4)
    source = decode_all(open_source(config, "train"))
    bad = {source.name(i).rpartition("/")[2]: why for i, why in source.bad.items()}
    return bad, [source.name(i) for i in range(len(source))]


def test_d1_a_truncated_jpeg_is_named_or_left_out_and_never_half_read(root, tmp_path):
    torn = root / "train" / "b" / "torn.jpg"
    save(torn, jpeg(tmp_path))
    _, names = left_out(root)
    torn.write_bytes(torn.read_bytes()[:2000])
    before = torn.read_bytes(), torn.stat().st_mtime_ns
    message = r"b/torn\.jpg cannot be decoded \(.*truncated.*\): it is damaged; .*on_bad_image=skip"
    with pytest.raises(BadImageError, match=message):
        opened(root)
    bad, after = left_out(root)
    assert list(bad) == ["torn.jpg"]
    assert "truncated" in bad["torn.jpg"]
    assert after == names  # all others keep their places
    assert (torn.read_bytes(), torn.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty\.jpg is not an image \(it is empty\)"),
        (b"<html>\n<h1>404</h1>", r"empty\.jpg is not an image \(an HTML page of 19 bytes"),
    ],
    ids=["empty", "html"],
)
def test_d2_an_empty_file_and_a_web_page_are_not_images(root, content, message):
    save(root / "train" / "a" / "empty.jpg", content)
    with pytest.raises(BadImageError, match=message):
        opened(root)
    assert list(left_out(root)[0]) == ["empty.jpg"]


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(
    ("row", "side", "claim"),
    [("d3", 20_000, "more than 89,478,485"), ("d4", 10_000, "100,000,000|10000x10000|more than")],
)
def test_d3_d4_decompression_bombs_are_refused(root, row, side, claim):
    save(root / "train" / "b" / "bomb.png", png(side, side, 1, 0, []))
    message = rf"bomb\.png claims ({claim}).*above data\.max_pixels=50,000,000"
    with pytest.raises(BadImageError, match=message):
        opened(root)
    assert list(left_out(root)[0]) == ["bomb.png"]


def test_d3_the_limit_can_be_set(root):
    message = r"a/1\.png claims 4x4 pixels, above data\.max_pixels=15: make it smaller, or raise"
    with pytest.raises(BadImageError, match=message):
        opened(root, max_pixels=15)
    assert len(opened(root, max_pixels=16)) == 6


def test_d5_a_turned_picture_is_seen_as_people_see_it(root):
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright
    stored = np.zeros((4, 8, 3), np.uint8)
    stored[:, :4] = RED  # left as stored, above as seen
    save(root / "train" / "a" / "0.jpg", stored, format="JPEG", exif=exif, quality=100)
    source = opened(root, image_size=(8, 4))
    image = source.images[[source.name(i)[-5:] for i in range(len(source))].index("0.jpg")]
    np.testing.assert_allclose(image[1, :], [RED] * 4, atol=12)
    np.testing.assert_allclose(image[6, :], 0, atol=12)


def test_d6_cmyk_becomes_rgb(root):
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    save(root / "train" / "a" / "0.jpg", cyan, format="JPEG", quality=100)
    source = opened(root)
    image = source.images[[source.name(i)[-5:] for i in range(len(source))].index("0.jpg")]
    np.testing.assert_allclose(image[0, 0], [0, 255, 255], atol=2)


RAMP = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)


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


def test_d7_floats_are_kept_or_refused_but_never_clipped(tmp_path):
    pixels = np.linspace(-1000, 3000, 16, dtype=np.float32).reshape(4, 4)  # as of a CT scan
    for name in "ab":
        save(tmp_path / "train" / name / "1.tif", Image.fromarray(pixels), format="TIFF")
    source = opened(tmp_path)
    assert source.images.dtype == np.float32
    np.testing.assert_array_equal(source.images[1, ..., 0], pixels)
    save(tmp_path / "train" / "b" / "2.png", plain(GREY))
    message = r"1\.tif holds floating-point pixels, whose range is not known: save it with 8 or 16"
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("background", "expected"), [("white", [233, 169, 189]), ("black", [80, 16, 36])]
)
def test_d8_transparent_pictures_lie_on_the_background(root, background, expected):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, *RED])
    palette.info["transparency"] = bytes([255, 102])  # an alpha of 0.4
    pictures = {"0a": Image.new("RGBA", (4, 4), (*RED, 102)), "0b": palette}
    for name, picture in pictures.items():
        save(root / "train" / "a" / name, picture)
    source = opened(root, background=background)
    for index in range(len(source)):
        if source.name(index)[-2:] in pictures:
            np.testing.assert_allclose(source.images[index][0, 0], expected, atol=1)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_d9_an_animation_is_its_first_frame(root, file_format):
    frames = [Image.fromarray(plain(colour)) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    path = root / "train" / "a" / "0"
    save(path, frames[0], format=file_format, save_all=True, append_images=frames[1:], **options)
    source = opened(root)
    image = source.images[[source.name(i)[-1] for i in range(len(source))].index("0")]
    np.testing.assert_array_equal(image[0, 0], RED)


def test_d10_grey_one_bit_and_one_pixel_work(root):
    for name, picture in {
        "grey": plain(GREY),
        "bits": Image.new("1", (4, 4), 1),
        "dot": plain(RED, 1, 1),
    }.items():
        save(root / "train" / "b" / name, picture)
    source = opened(root)
    found = {source.name(i).rpartition("/")[2]: source.images[i][0, 0].tolist() for i in range(9)}
    assert found["grey"] == [GREY] * 3
    assert found["bits"] == [255] * 3
    assert found["dot"] == list(RED)


@pytest.mark.parametrize("name", ["0.JPG", "0.jpeg", "0.txt", "0"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_d11_the_content_decides_not_the_name(root, name, file_format):
    save(root / "train" / "a" / name, plain((40, 40, 40)), format=file_format)
    source = opened(root)
    image = source.images[[source.name(i)[-len(name) :] for i in range(7)].index(name)]
    np.testing.assert_allclose(image[0, 0], 40, atol=1)


def test_d12_what_systems_leave_behind_is_passed_over_and_counted(root):
    from vit_jax.data.folder import list_split

    before = opened(root).fingerprint
    for name in ("a/.DS_Store", "a/._1.jpg", "b/Thumbs.db", "b/desktop.ini", ".thumbs/1.png"):
        save(root / "train" / name, b"nothing")
    (root / "train" / "b" / "again").symlink_to(root / "train" / "b")  # a loop
    (root / "train" / "b" / "above").symlink_to(root / "train")  # a longer one
    source = opened(root)
    # "above" leads to class a as well, whose files are then b's too: links are followed.
    names = [source.name(i) for i in range(len(source))]
    assert not [name for name in names if name.endswith(("DS_Store", "._1.jpg", "Thumbs.db"))]
    assert not [name for name in names if "/again/" in name]
    (root / "train" / "b" / "above").unlink()
    assert opened(root).fingerprint == before
    assert list_split(root / "train").ignored == 6


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("train/c/.keep", r"train/c is empty, but its folder is one of the classes a, b, c: put"),
        ("one/a/1.png", r"one should hold the folders of two classes or more, not a"),
        ("val/a/1.png val/c/1.png", r"same classes: only the first has \['c'\], .*\['b'\]"),
        ("train/loose.png", r"train/loose\.png is in no class: .*ROOT/SPLIT/CLASS/FILE"),
    ],
    ids=["empty", "one", "others", "loose"],
)
def test_d13_folders_that_are_no_classes_are_named(root, entries, message):
    for name in entries.split():
        save(root / name, plain(RED))
    with pytest.raises(DataError, match=message):
        opened(root, entries.partition("/")[0])


def test_d13_splits_without_classes_are_not_taken_for_classes(tmp_path):
    for name in ("train/1.png", "val/1.png"):
        save(tmp_path / name, plain(RED))
    with pytest.raises(DataError, match=r"/train holds no folders of classes: .*ROOT/SPLIT/CLASS"):
        opened(tmp_path)


def test_d20_a_missing_root_is_answered_with_near_names_and_the_layout(root):
    message = r"data\.root='.*/dat': there is no such folder, perhaps .*/data; .*ROOT/train/ants/1"
    with pytest.raises(DataError, match=message):
        opened(root.with_name("dat"))


@pytest.mark.parametrize("size", [32, 224, 448, (224, 160)])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_the_centre_lies_inside_pictures_of_every_size(size, fraction):
    from vit_jax.data.decode import Pixels, whole_box

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


def test_d10_pictures_with_colours_become_grey_where_the_config_says_so(root):
    source = opened(root, channels=1)
    assert source.images.shape == (6, 4, 4, 1)
    # By 0.299 of the red, as Pillow rounds it.
    assert source.images[:, 0, 0, 0].tolist() == [round(0.299 * n) for n in (4, 6, 3, 2, 5, 1)]


def test_a_root_that_is_a_file_is_called_one(root):
    save(root.parent / "notes.txt", b"nothing")
    with pytest.raises(DataError, match=r"notes\.txt' is a file, neither a folder nor an archive"):
        opened(root.parent / "notes.txt")
