"""Mosaics of a batch, and an image in its patches: every pixel in its place, labels that fit."""

import numpy as np
import PIL.Image
import pytest

from vit_jax.pictures import batch as b
from vit_jax.pictures.fonts import width_of


def texts_of(sheet):
    return [text for _, _, text, _ in sheet.texts]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (8, 8, 1), (9, 8, 2), (32, 8, 4)]
)
def test_images_are_in_rows_of_eight(tmp_path, saved_sheets, count, columns, rows):
    images = noise(count, 32, 32, 3)
    b.draw_batch(images, [f"c{i}" for i in range(count)], tmp_path / "a.png")
    (sheet,) = saved_sheets
    with PIL.Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (sheet.height, sheet.width, 3)
    at = {text: (left, line) for left, line, text, _ in sheet.texts}
    for index in range(count):
        middle, line = at[f"c{index}"]
        left, bottom = round(middle - 64), line - 14
        found = pixels[bottom - 128 : bottom, left : left + 128]
        np.testing.assert_array_equal(found, images[index].repeat(4, 0).repeat(4, 1))
    assert len({left for text, (left, _) in at.items() if text[0] == "c"}) == columns
    assert len({line for text, (_, line) in at.items() if text[0] == "c"}) == rows


@pytest.mark.parametrize("shape", [(300, 80, 1), (20, 200, 3), (8, 8, 5), (100, 100, 2)])
def test_odd_shapes(tmp_path, saved_sheets, shape):
    b.draw_batch(np.full((3, *shape), 0.5), ["a", "b", ""], tmp_path / "a.png")
    title = texts_of(saved_sheets[0])[0]
    assert title.startswith("A training batch as the model sees it")
    assert title.endswith(f"(channel 1 of {shape[-1]})") == (shape[-1] not in (1, 3))


def test_of_more_images_the_first_are_drawn(tmp_path, saved_sheets):
    b.draw_batch(np.zeros((1000, 8, 8, 1)), [f"c{i}" for i in range(1000)], tmp_path / "a.png")
    texts = texts_of(saved_sheets[0])
    assert texts[0].endswith(": 32 of 1,000 images")
    assert texts[1:] == [f"c{i}" for i in range(32)]


def test_mixed_labels_keep_their_shares():
    assert b.label_lines("cat 0.7 + dog 0.3", 200) == ["cat 0.7 + dog 0.3"]
    assert b.label_lines("cat 0.7 + dog 0.3", 60) == ["cat 0.7 +", "dog 0.3"]
    long = "Labrador retriever 0.7 + Staffordshire bullterrier 0.3"
    first, second = b.label_lines(long, 110)
    assert first.startswith("Labr")
    assert first.endswith("\u2026 0.7 +")
    assert second.endswith("\u2026 0.3")
    assert max(width_of(first, 8), width_of(second, 8)) <= 110
    assert b.label_lines("a name with a number 3 and more", 60)[0].endswith("\u2026")
    assert b.label_lines("two\nlines", 200) == ["two lines"]
    assert b.label_lines("", 200) == [""]


def test_patches_are_those_of_the_image_in_reading_order(tmp_path, saved_sheets):
    image = noise(8, 12, 3)
    b.draw_patches(image, (4, 3), tmp_path / "a.png")
    (sheet,) = saved_sheets
    assert texts_of(sheet)[0] == "image, 8 x 12 pixels"
    assert texts_of(sheet)[1] == "2 x 4 patches of 4 x 3 pixels, in reading order"
    assert texts_of(sheet)[2:] == [str(number) for number in range(1, 9)]
    big = image.repeat(28, 0).repeat(28, 1)
    first = sheet.pixels[42 : 42 + 224, 14 : 14 + 336]
    top = next(y for y in range(60) if (sheet.pixels[y : y + 224, 14 : 14 + 336] == big).all())
    assert first.shape == big.shape
    for middle, line, text, _ in sheet.texts[2:]:
        row, column = divmod(int(text) - 1, 4)
        left, above = round(middle - 42), top + row * (112 + 16)
        patch = big[row * 112 : (row + 1) * 112, column * 84 : (column + 1) * 84]
        assert (sheet.pixels[above : above + 112, left : left + 84] == patch).all()
        assert above + 112 < line < above + 128


@pytest.mark.parametrize(
    ("shape", "patch", "numbered"),
    [((224, 224, 3), (16, 16), False), ((32, 32, 1), (4, 4), True), ((36, 36, 4), (4, 4), False)],
)
def test_many_patches_are_not_numbered(tmp_path, saved_sheets, shape, patch, numbered):
    b.draw_patches(np.full(shape, 0.3), patch, tmp_path / "a.png")
    texts = texts_of(saved_sheets[0])
    assert (len(texts) > 2) == numbered
    assert ("reading order" in texts[1]) == numbered
    assert ("channel 1 of 4" in texts[0]) == (shape[-1] == 4)


def test_a_single_patch(tmp_path, saved_sheets):
    b.draw_patches(noise(8, 8, 1), (8, 8), tmp_path / "a.png")
    assert texts_of(saved_sheets[0])[1:] == ["1 x 1 patches of 8 x 8 pixels, in reading order", "1"]


def test_an_image_of_no_whole_patches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="30x32 is not made of whole patches of 4x4"):
        b.draw_patches(np.zeros((30, 32, 3)), (4, 4), tmp_path / "a.png")
