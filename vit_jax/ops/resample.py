"""Resampling of position tables and patch kernels, by the interpolations of the published systems.

Plain NumPy in float64: this runs once, when weights are loaded or a model is traced.
"""

from typing import Literal

import numpy as np

Interpolation = Literal[
    "bicubic", "bicubic_antialias", "bicubic_corners", "linear_corners", "linear"
]


def resize_matrix(old: int, new: int, interpolation: Interpolation) -> np.ndarray:
    """Interpolation of a line of `old` samples at `new` places, as a matrix: float64 [new, old].

    bicubic, bicubic_antialias: `torch.nn.functional.interpolate(mode="bicubic",
      align_corners=False)` with `antialias` False or True; the corners of the end pixels stay.
    bicubic_corners: the same with `align_corners=True`; the centres of the end pixels stay.
    linear_corners: `scipy.ndimage.zoom(order=1)`.
    linear: `interpolate(mode="bilinear", align_corners=False)`, as FlexiViT's.
    """
    if interpolation == "bicubic_antialias":
        return _antialiased(old, new)
    if interpolation in ("bicubic", "linear"):
        places = (np.arange(new) + 0.5) * old / new - 0.5
    else:
        places = np.arange(new) * (old - 1) / max(new - 1, 1)
    linear = interpolation in ("linear", "linear_corners")
    first = np.floor(places).astype(int)
    matrix = np.zeros((new, old))
    for tap in (0, 1) if linear else (-1, 0, 1, 2):
        distance = places - (first + tap)
        weights = 1 - abs(distance) if linear else _cubic(distance, a=-0.75)
        # Samples beyond the ends are those at the ends.
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weights)
    return matrix


def resample_positions(
    table: np.ndarray, grid: tuple[int, int], interpolation: Interpolation
) -> np.ndarray:
    """[rows, columns, d] -> [*grid, d], of the table's dtype."""
    rows, columns, _ = table.shape
    down = resize_matrix(rows, grid[0], interpolation)
    across = resize_matrix(columns, grid[1], interpolation)
    return np.einsum("Rr,Cc,rcd->RCd", down, across, table, optimize=True).astype(table.dtype)


def resample_patch_kernel(
    kernel: np.ndarray,
    patch_size: tuple[int, int],
    interpolation: Interpolation = "bicubic_antialias",
) -> np.ndarray:
    """[ph, pw, c, d] -> [*patch_size, c, d], of the kernel's dtype.

    The new kernel gives on resized patches, as nearly as can be, what the old gave on the patches:
    the pseudo-inverse resize of FlexiViT (arXiv 2212.08013, section 3.4).
    """
    down, across = (
        patch_kernel_matrix(old, new, interpolation)
        for old, new in zip(kernel.shape[:2], patch_size, strict=True)
    )
    return np.einsum("Hh,Ww,hwcd->HWcd", down, across, kernel, optimize=True).astype(kernel.dtype)


def patch_kernel_matrix(old: int, new: int, interpolation: Interpolation) -> np.ndarray:
    """What resizes a patch kernel along one of its axes, as a matrix: float64 [new, old].

    The resize of a patch is a product along each of its axes, so its pseudo-inverse is too.
    """
    return np.linalg.pinv(resize_matrix(old, new, interpolation).T)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (IEEE TASSP 29(6), 1981, equation 4, with a free `a`)."""
    x = abs(distance)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _antialiased(old: int, new: int) -> np.ndarray:
    """Bicubic whose kernel is as wide as an output pixel where the line gets shorter."""
    scale = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new
    first = np.maximum((centres - 2 * scale + 0.5).astype(int), 0)
    last = np.minimum((centres + 2 * scale + 0.5).astype(int), old)
    samples = np.arange(old)
    weights = _cubic((samples + 0.5 - centres[:, None]) / scale, a=-0.5)
    weights *= (samples >= first[:, None]) & (samples < last[:, None])
    return weights / weights.sum(axis=1, keepdims=True)
