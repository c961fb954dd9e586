"""Attention pictures: the right map in the right place, ranges below, overlays and frames."""

import numpy as np
import PIL.Image
import pytest

from vit_jax.pictures import attention as a
from vit_jax.pictures.canvas import as_bytes, as_rgb, coloured, stretched


def texts_of(sheet):
    """All lines of text of a sheet, in the order in which they were written."""
    return [text for _, _, text, _ in sheet.texts]


def some_maps(*shape, seed=0):
    rows, columns = shape[-2:]
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(rows * columns), shape[:-2]).reshape(shape)


def find(sheet, picture):
    """Corners at which the sheet holds these pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet.pixels[..., 0], picture.shape[:2])
    likely = np.argwhere(
        (windows[..., 0, 0] == picture[0, 0, 0]) & (windows[..., -1, -1] == picture[-1, -1, 0])
    )
    height, width, _ = picture.shape
    return [
        (int(y), int(x))
        for y, x in likely
        if (sheet.pixels[y : y + height, x : x + width] == picture).all()
    ]


def drawn(values, size):
    rows, columns = values.shape
    picture = coloured(stretched(values, a.TOP), "viridis")
    return picture.repeat(size[0] // rows, axis=0).repeat(size[1] // columns, axis=1)


@pytest.mark.parametrize(
    ("layers", "heads", "grid", "shape", "panel"),
    [
        (2, 6, (8, 8), (32, 32, 3), (128, 128)),
        (12, 3, (14, 14), (224, 224, 3), (126, 126)),
        (2, 1, (4, 6), (64, 96, 1), (84, 126)),
        (3, 16, (14, 14), (224, 224, 3), (56, 56)),
        (1, 2, (3, 5), (48, 160, 4), (39, 130)),  # patches that are not square
    ],
)
def test_every_map_is_in_its_row_and_column(
    tmp_path, saved_sheets, layers, heads, grid, shape, panel
):
    maps = some_maps(layers, heads, *grid)
    image = np.random.default_rng(1).random(shape)
    mean, roll = maps.mean(axis=(0, 1)), maps[0, 0]
    a.draw_attention(image, maps, mean, roll, tmp_path / "a.png", "a_title in $")
    (sheet,) = saved_sheets
    with PIL.Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (sheet.width, sheet.height)
    texts = texts_of(sheet)
    assert texts[0] == "a_title in $"
    note = " (channel 1 of 4)" if shape[-1] == 4 else ""
    assert f"image{note}" in texts
    at = {text: (left, line) for left, line, text, _ in sheet.texts}
    for layer in range(layers):
        for head in range(heads):
            ((top, left),) = find(sheet, drawn(maps[layer, head], panel))
            assert top < at[f"layer {layer + 1}"][1] < top + panel[0]
            assert at[f"layer {layer + 1}"][0] < left
            middles = [x for x, _, text, _ in sheet.texts if text == f"head {head + 1}"]
            assert any(abs(x - (left + panel[1] / 2)) <= 1 for x in middles)
            below = [
                text
                for x, line, text, _ in sheet.texts
                if abs(x - left - panel[1] / 2) <= 1 and 0 < line - top - panel[0] < 16
            ]
            assert below == [a.share_range(maps[layer, head])]
    assert "average of layers and heads" in texts
    assert f"{a.share_range(mean)} %" in texts


def test_the_top_row_is_image_average_and_rollout(tmp_path, saved_sheets):
    maps = some_maps(2, 2, 4, 4)
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    roll = some_maps(4, 4, seed=5)
    a.draw_attention(image, maps, maps[1, 1], roll, tmp_path / "a.png")
    (sheet,) = saved_sheets
    ((top, left),) = find(sheet, image.repeat(33, axis=0).repeat(33, axis=1))
    ((top_2, left_2),) = find(sheet, drawn(maps[1, 1], (264, 264)))
    ((top_3, left_3),) = find(sheet, drawn(roll, (264, 264)))
    assert top == top_2 == top_3
    assert left < left_2 < left_3


def test_few_heads_stand_in_blocks_and_many_make_the_figure_grow():
    assert a.blocks_of(12, 460) == 2
    assert a.blocks_of(2, 100) == 1
    assert a.blocks_of(12, 1200) == 1
    assert [a.panel_side(heads) for heads in (1, 6, 12, 16, 64)] == [128, 128, 75, 56, 56]


def test_values_that_are_missing_do_not_stop_the_picture(tmp_path, saved_sheets):
    maps = np.full((1, 1, 4, 4), np.nan)
    a.draw_attention(np.zeros((8, 8, 1)), maps, maps[0, 0], maps[0, 0], tmp_path / "a.png")
    assert texts_of(saved_sheets[0]).count("-") == 1
    assert texts_of(saved_sheets[0]).count("- %") == 2


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.0012, 0.5], "0.12-50"),
        ([0.00001, 0.014], "0-1.4"),
        ([0.0, 0.0996], "0-10"),
        ([0.25, 0.25], "25"),
        ([0.00001, 0.00002], "<0.01"),
        ([0.0, 0.0], "0"),
        ([np.nan, 0.0155], "1.6"),
        ([np.nan, np.nan], "-"),
    ],
)
def test_ranges_are_in_per_cent(values, text):
    assert a.share_range(np.array([values])) == text


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["light", "heat"])
def test_an_overlay_has_the_images_size_and_shows_where_the_map_is_large(tmp_path, kind, channels):
    image = 0.2 + 0.6 * np.random.default_rng(0).random((48, 90, channels))
    values = np.zeros((4, 6))
    values[1, 2] = 0.3
    a.draw_overlay(image, values, tmp_path / "a.png", kind)
    with PIL.Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")) / 255
    plain = as_rgb(image)
    assert pixels.shape == (48, 90, 3)
    looked_at, elsewhere = np.s_[17:19, 37:38], np.s_[36:, 60:]  # the patch's middle, and far off
    if kind == "light":
        np.testing.assert_allclose(pixels[looked_at], plain[looked_at], atol=0.03)
        np.testing.assert_allclose(pixels[elsewhere], 0.25 * plain[elsewhere], atol=0.003)
    else:
        np.testing.assert_allclose(pixels[elsewhere], plain[elsewhere], atol=0.003)
        red_over_blue = pixels[looked_at][..., 0] - pixels[looked_at][..., 2]
        assert (red_over_blue > plain[looked_at][..., 0] - plain[looked_at][..., 2] + 0.1).all()
        assert (pixels[looked_at].mean(axis=-1) > 0.5).all()


@pytest.mark.parametrize("kind", ["light", "heat"])
@pytest.mark.parametrize("value", [0.0, 0.25, np.nan])
def test_an_even_map_leaves_the_image_alone(kind, value):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(as_bytes(a.overlay(image, np.full((3, 3), value), kind)), image)


def test_overlays_depend_on_the_order_of_values_not_on_their_sum():
    image, values = np.random.default_rng(0).random((20, 20, 3)), some_maps(5, 5)
    np.testing.assert_allclose(
        a.overlay(image, values), a.overlay(image, 7 * values + 3), atol=1e-6
    )


@pytest.mark.parametrize("heads", [1, 6])
def test_frames_of_one_shape_have_one_size(tmp_path, saved_sheets, heads):
    for epoch, scale in ((3, 1.0), (1000, 1e-6)):
        maps = scale * some_maps(2, heads, 4, 6, seed=epoch)
        images = np.random.default_rng(epoch).random((2, 28, 42, 1))
        title = a.progress_title(epoch, 0.7123) + " \u2026 and more" * (epoch // 100)
        a.draw_progress(images, maps[:, 0], maps[:, -1], maps, tmp_path / f"{epoch}.png", title)
    one, other = saved_sheets
    assert (one.width, one.height) == (other.width, other.height)
    assert texts_of(one)[0] == "epoch 3, held-out accuracy 71.2 %"
    assert texts_of(one)[1:4] == ["image", "average", "rollout"]
    maps = some_maps(2, heads, 4, 6, seed=3)
    panel = (84, 126) if heads == 1 else (56, 84)
    lefts = [find(one, drawn(maps[1, head], panel))[-1] for head in range(heads)]
    assert [left for _, left in lefts] == sorted(left for _, left in lefts)


def test_titles_of_frames():
    assert a.progress_title(3) == "epoch 3"
    assert a.progress_title(12, 1.0) == "epoch 12, held-out accuracy 100.0 %"
