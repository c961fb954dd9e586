import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import PatchEmbed
from vit_jax.models.patches import grid_size

# (image [h, w, c], patch size): squares and rectangles, a 5x7 grid, one and five channels.
SHAPES = [
    ((8, 8, 3), 4),
    ((10, 21, 1), (2, 3)),
    ((15, 28, 5), (3, 4)),
    ((6, 6, 3), 6),
    ((4, 6, 2), 1),
]


@pytest.mark.parametrize(("shape", "patch_size"), SHAPES)
@pytest.mark.parametrize("method", ["conv", "matmul"])
def test_equals_torch_convolution(
    method, shape, patch_size, torch, load, to_torch, torch_names, random_variables, normal, apply
):
    module = PatchEmbed(width=36, patch_size=patch_size, method=method)
    images = normal((2, *shape))
    variables = random_variables(module, images)
    reference = load(
        torch.nn.Conv2d(shape[2], 36, patch_size, stride=patch_size),
        torch_names.convolution(variables["params"]),
    )
    expected = reference(to_torch(images)).flatten(2).transpose(1, 2).detach().numpy()
    np.testing.assert_allclose(apply(module, variables, images), expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "patch_size"), SHAPES)
def test_both_methods_give_the_same_numbers_and_gradients(
    shape, patch_size, random_variables, normal, apply, jit
):
    conv = PatchEmbed(width=36, patch_size=patch_size, method="conv")
    matmul = dataclasses.replace(conv, method="matmul")
    images = normal((2, *shape))
    variables = random_variables(conv, images)
    chex.assert_trees_all_equal_shapes(variables, random_variables(matmul, images))
    tokens = apply(conv, variables, images)
    np.testing.assert_allclose(apply(matmul, variables, images), tokens, rtol=1e-6, atol=1e-6)

    weights = normal(tokens.shape, seed=2)

    def gradients(module):
        def loss(variables, images):
            return (module.apply(variables, images) * weights).mean()

        return jit(jax.grad(loss, argnums=(0, 1)))(variables, images)

    chex.assert_trees_all_close(gradients(matmul), gradients(conv), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["conv", "matmul"])
def test_patches_are_ordered_row_by_row(method, apply):
    # Each pixel holds the number of its patch; a kernel of ones over two pixels doubles it.
    rows, columns = 5, 7
    numbers = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    images = jnp.asarray(numbers.repeat(2, axis=0)[None, :, :, None])
    module = PatchEmbed(width=1, patch_size=(2, 1), method=method)
    params = {"kernel": jnp.ones((2, 1, 1, 1)), "bias": jnp.zeros(1)}
    tokens = apply(module, {"params": params}, images)
    np.testing.assert_array_equal(tokens, 2 * numbers.reshape(1, -1, 1))


@pytest.mark.parametrize(
    ("image_size", "patch_size", "expected"),
    [
        (224, 16, (14, 14)),
        ((10, 21), (2, 3), (5, 7)),
        ((32, 48), 8, (4, 6)),
        (12, (12, 1), (1, 12)),
    ],
)
def test_grid_size(image_size, patch_size, expected):
    assert grid_size(image_size, patch_size) == expected


@pytest.mark.parametrize(
    ("shape", "patch_size", "heights", "widths"),
    [
        ((10, 8, 3), 4, "[1, 2, 5, 10]", "[1, 2, 4, 8]"),
        ((8, 9, 3), (4, 2), "[1, 2, 4, 8]", "[1, 3, 9]"),
        ((6, 6, 3), 12, "[1, 2, 3, 6]", "[1, 2, 3, 6]"),
    ],
)
def test_patches_that_do_not_fill_the_image(shape, patch_size, heights, widths):
    module = PatchEmbed(width=4, patch_size=patch_size)
    with pytest.raises(ValueError, match="does not divide") as error:
        module.init(jax.random.key(0), jnp.zeros((1, *shape)))
    message = str(error.value)
    size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    assert f"patch_size={size}" in message
    assert f"{shape[0]}x{shape[1]} pixels" in message
    assert f"a patch height out of {heights} and a patch width out of {widths}" in message
    assert "or resize the image" in message


def test_other_channels_than_the_kernel_has(random_variables):
    module = PatchEmbed(width=4, patch_size=2)
    variables = random_variables(module, jnp.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="channels=1") as error:
        module.apply(variables, jnp.zeros((2, 4, 4, 1)))
    message = str(error.value)
    assert "images of shape (2, 4, 4, 1)" in message
    assert "was initialised for 3: images are [b, h, w, 3]" in message


@pytest.mark.parametrize("method", ["conv", "matmul"])
def test_bfloat16_computes_in_bfloat16_from_float32_parameters(
    method, random_variables, normal, apply
):
    module = PatchEmbed(width=36, patch_size=(2, 3), method=method)
    images = normal((2, 10, 21, 5))
    variables = random_variables(module, images)
    exact = apply(module, variables, images)
    half = dataclasses.replace(module, dtype="bfloat16")
    initial = jax.eval_shape(half.init, jax.random.key(0), images)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype(jnp.float32)}
    rounded = apply(half, variables, images)
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(rounded.astype(np.float32) - exact)
    # Half a unit in the last place of the largest numbers, a few times over.
    assert 0 < error.max() < 4 * 2**-9 * np.abs(exact).max()
