"""Resampling against PyTorch's and SciPy's own."""

import numpy as np
import pytest
import scipy.ndimage

from vit_jax.ops.resample import resample_patch_kernel, resample_positions, resize_matrix

GRIDS = [
    ((14, 14), (24, 24)),
    ((14, 14), (7, 7)),
    ((7, 7), (5, 11)),
    ((4, 6), (6, 4)),
    ((3, 3), (1, 1)),
]
TORCH = {
    "linear": {"align_corners": False, "antialias": False, "mode": "bilinear"},
    "bicubic": {"align_corners": False, "antialias": False},
    "bicubic_antialias": {"align_corners": False, "antialias": True},
    "bicubic_corners": {"align_corners": True, "antialias": False},
}


@pytest.mark.parametrize(("old", "new"), GRIDS, ids=str)
@pytest.mark.parametrize("interpolation", TORCH)
def test_positions_are_resampled_as_pytorch_does(interpolation, old, new):
    torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
    table = np.random.default_rng(0).normal(size=(*old, 5))
    tensor = torch.from_numpy(table).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        tensor, size=new, **{"mode": "bicubic", **TORCH[interpolation]}
    )
    found = resample_positions(table, new, interpolation)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [pair for pair in GRIDS if min(pair[1]) > 1], ids=str)
def test_positions_are_resampled_as_scipy_does(old, new):
    table = np.random.default_rng(0).normal(size=(*old, 5))
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    found = resample_positions(table, new, "linear_corners")
    np.testing.assert_allclose(found, scipy.ndimage.zoom(table, zoom, order=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("interpolation", [*TORCH, "linear_corners"])
def test_a_constant_stays_and_the_same_size_changes_nothing(interpolation):
    for old, new in ((5, 9), (9, 5), (1, 3), (4, 4)):
        matrix = resize_matrix(old, new, interpolation)
        assert matrix.shape == (new, old)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(resize_matrix(6, 6, interpolation), np.eye(6), atol=1e-12)


@pytest.mark.parametrize("new", [(8, 8), (32, 32), (12, 20)], ids=str)
def test_a_patch_kernel_is_the_pseudo_inverse_of_the_image_resize(new):
    torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
    kernel = np.random.default_rng(0).normal(size=(16, 16, 3, 2))
    # The resize of an image as one matrix, from what PyTorch makes of each single pixel.
    pixels = torch.eye(256, dtype=torch.float64).reshape(256, 1, 16, 16)
    resized = torch.nn.functional.interpolate(pixels, size=new, mode="bicubic", antialias=True)
    resize = resized.reshape(256, -1).T.numpy()
    expected = np.linalg.pinv(resize.T) @ kernel.reshape(256, -1)
    found = resample_patch_kernel(kernel, new)
    np.testing.assert_allclose(found, expected.reshape(*new, 3, 2), rtol=0, atol=1e-10)


def test_a_larger_patch_gives_the_same_tokens_on_enlarged_images():
    # Section 3.4 of FlexiViT: exact when patches grow, because enlarging loses nothing.
    rng = np.random.default_rng(0)
    patch, kernel = rng.normal(size=(8, 8)), rng.normal(size=(8, 8, 1, 1))
    enlarge = resize_matrix(8, 12, "bicubic_antialias")
    larger = enlarge @ patch @ enlarge.T
    expected = (patch * kernel[..., 0, 0]).sum()
    found = (larger * resample_patch_kernel(kernel, (12, 12))[..., 0, 0]).sum()
    assert found == pytest.approx(expected, rel=1e-10)


def test_the_type_stays():
    table = np.zeros((2, 2, 1), np.float32)
    assert resample_positions(table, (3, 3), "bicubic").dtype == np.float32
    assert resample_patch_kernel(np.zeros((2, 2, 1, 1), np.float32), (4, 4)).dtype == np.float32
