import math

import numpy as np
import pytest

from vit_jax.ops.positions import sincos2d


def one_position(row, column, width, temperature):
    """The channels of one patch, number by number."""
    quarter = width // 4
    frequencies = [temperature ** (-i / (quarter - 1)) for i in range(quarter)]
    return (
        [math.sin(column * f) for f in frequencies]
        + [math.cos(column * f) for f in frequencies]
        + [math.sin(row * f) for f in frequencies]
        + [math.cos(row * f) for f in frequencies]
    )


@pytest.mark.parametrize(
    ("rows", "columns", "width", "temperature"),
    [(5, 7, 36, 10_000.0), (14, 14, 64, 10_000.0), (3, 2, 8, 100.0), (1, 4, 20, 10.0)],
)
def test_sincos2d_equals_python(rows, columns, width, temperature):
    table = sincos2d(rows, columns, width, temperature)
    expected = [
        one_position(row, column, width, temperature)
        for row in range(rows)
        for column in range(columns)
    ]
    assert table.shape == (rows * columns, width)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, expected, atol=5e-6)


def test_temperature_is_ten_thousand():
    np.testing.assert_array_equal(sincos2d(3, 5, 16), sincos2d(3, 5, 16, 10_000.0))
    # The slowest wave has turned by 1 / 10000 after one column.
    np.testing.assert_allclose(sincos2d(1, 2, 16)[1, 3], 1e-4, rtol=1e-5)


def test_every_place_differs_from_every_other():
    table = np.asarray(sincos2d(14, 14, 64))
    distance = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert distance[~np.eye(len(table), dtype=bool)].min() > 0.5


@pytest.mark.parametrize("width", [0, 4, 6, 30, 31])
def test_widths_that_do_not_fit(width):
    with pytest.raises(ValueError, match=f"width={width} with") as error:
        sincos2d(2, 3, width)
    message = str(error.value)
    assert "positions='sincos2d'" in message
    assert "use a multiple of 4, at least 8" in message
