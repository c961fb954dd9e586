"""Positions and filters: similarities and principal components against direct computations."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vit_jax.pictures import weights as w
from vit_jax.pictures.canvas import coloured


def texts_of(sheet):
    return [text for _, _, text, _ in sheet.texts]


def test_the_map_of_a_patch_is_its_similarity_with_all(tmp_path, saved_sheets):
    positions = np.random.default_rng(0).normal(size=(6, 5))
    w.draw_position_similarity(positions, (2, 3), tmp_path / "a.png")
    (sheet,) = saved_sheets
    cell = (880 // 3 - 4) // 3
    places = []
    for one in positions:
        lengths = np.linalg.norm(positions, axis=1) * np.linalg.norm(one)
        similarity = (positions @ one / lengths).reshape(2, 3)
        picture = coloured((similarity + 1) / 2, "viridis").repeat(cell, 0).repeat(cell, 1)
        height, width, _ = picture.shape
        first = (sheet.pixels == picture[0, 0]).all(axis=-1)
        white = (sheet.pixels == 255).all(axis=-1)
        corners = np.argwhere(first[:, 1:] & white[:, :-1]) + np.array([0, 1])
        places += [
            (int(y), int(x))
            for y, x in corners
            if sheet.pixels[y : y + height, x : x + width].shape == picture.shape
            and (sheet.pixels[y : y + height, x : x + width] == picture).all()
        ]
    # In reading order: two rows of three.
    assert len(places) == 6
    assert places == sorted(places)
    assert len({top for top, _ in places}) == 2


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ((14, 14), ""),
        ((1, 7), ""),
        ((40, 20), ", 16 x 16 of 40 x 20"),
        ((32, 4), ", 16 x 4 of 32 x 4"),
    ],
)
def test_large_grids_show_a_regular_part_and_say_so(tmp_path, saved_sheets, grid, said):
    positions = np.random.default_rng(0).normal(size=(grid[0] * grid[1], 8))
    w.draw_position_similarity(positions, grid, tmp_path / "a.png")
    assert texts_of(saved_sheets[0])[0] == f"Similarity of position embeddings{said}"


def test_places_of_tiles_are_regular_and_have_both_ends():
    assert w.tile_places(1) == [0]
    assert w.tile_places(16) == list(range(16))
    places = w.tile_places(61)
    assert places == list(range(0, 61, 4))


def test_similarities():
    vectors = np.array([[1.0, 0], [0, 2], [-3, 0], [0, 0], [1, 1]])
    similarity = w.cosine_similarity(vectors)
    np.testing.assert_allclose(similarity[0], [1, 0, -1, 0, 2**-0.5])
    np.testing.assert_allclose(similarity, similarity.T)


@pytest.mark.parametrize("shape", [(4, 4, 3, 96), (4, 6, 3, 20), (2, 2, 1, 50), (16, 16, 3, 64)])
def test_components_are_those_of_scikit_learn(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    components, explained = w.principal_filters(kernel, 28)
    filters = kernel.reshape(-1, shape[-1]).T.astype(np.float64)
    count = min(28, shape[0] * shape[1] * shape[2], shape[3] - 1)
    pca = PCA(count, svd_solver="full").fit(filters)
    assert components.shape == (count, *shape[:3])
    np.testing.assert_allclose(explained, pca.explained_variance_ratio_, rtol=1e-6)
    products = np.abs((components.reshape(count, -1) * pca.components_).sum(axis=1))
    np.testing.assert_allclose(products, 1, rtol=1e-6)
    flat = components.reshape(count, -1)
    assert (flat[np.arange(count), np.abs(flat).argmax(axis=1)] > 0).all()


def test_a_single_filter_and_none_but_zeros():
    kernel = np.arange(12.0).reshape(2, 2, 3, 1)
    components, explained = w.principal_filters(kernel, 28)
    np.testing.assert_allclose(components[0], kernel[..., 0] / np.linalg.norm(kernel))
    np.testing.assert_allclose(explained, [1])
    components, explained = w.principal_filters(np.zeros((2, 2, 3, 5)), 28)
    assert np.isfinite(components).all()
    np.testing.assert_array_equal(explained, [0])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_filters_are_drawn_with_zero_in_grey(tmp_path, saved_sheets, channels):
    kernel = np.zeros((4, 4, channels, 9))
    kernel[0, 0, 0] = np.arange(9)  # the only direction: the first pixel's first channel
    w.draw_filters(kernel, tmp_path / "a.png")
    (sheet,) = saved_sheets
    texts = texts_of(sheet)
    assert texts[0] == "Patch embedding: 1 principal components of 9 filters"
    assert texts[1].startswith("Together 100.0 % of their variance")
    assert texts[1].endswith(f"Channel 1 of {channels} is shown.") == (channels == 5)
    assert texts[2] == "1: 100.0 %"
    top = 14 + 22 + 16 + 8
    middle = round(sheet.texts[2][0])
    tile = sheet.pixels[top : top + 80, middle - 40 : middle + 40]
    assert tuple(tile[0, 0]) == ((255, 128, 128) if channels == 3 else (255, 255, 255))
    assert (tile[40, 40] == 128).all()


@pytest.mark.parametrize("shape", [(16, 16, 3, 192), (1, 1, 3, 8), (7, 28, 1, 30), (32, 32, 3, 40)])
def test_filters_of_all_sizes(tmp_path, saved_sheets, shape):
    kernel = np.random.default_rng(0).normal(size=shape)
    w.draw_filters(kernel, tmp_path / "a.png")
    count = min(28, shape[0] * shape[1] * shape[2], shape[3] - 1)
    assert len(texts_of(saved_sheets[0])) == 2 + count


def test_zero_is_in_the_middle_of_a_components_scale():
    np.testing.assert_allclose(w.centred(np.array([-4.0, 0, 2])), [0, 0.5, 0.75])
    np.testing.assert_allclose(w.centred(np.zeros(3)), 0.5)
