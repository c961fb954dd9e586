import math

import jax
import jax.numpy as jnp
import pytest

from vit_jax import ViT, forward_flops, parameter_count, vit
from vit_jax.models import abstract_params


def multiply_adds(jaxpr):
    """Multiply-adds of all matrix products and convolutions in a program of jax."""
    total = 0
    for equation in jaxpr.eqns:
        # A product inside a loop would have to be counted once for each of its turns.
        assert equation.primitive.name not in ("scan", "while", "cond")
        outputs = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            total += outputs * math.prod(equation.invars[0].aval.shape[axis] for axis in summed)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            output_axis = equation.params["dimension_numbers"].rhs_spec[0]
            total += outputs * math.prod(kernel) // kernel[output_axis]
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr)
        total += sum(multiply_adds(getattr(p, "jaxpr", p)) for p in inner if is_jaxpr(p))
    return total


def is_jaxpr(value):
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def counted_flops(function, *inputs):
    return 2 * multiply_adds(jax.make_jaxpr(function)(*inputs).jaxpr)


def test_the_count_of_a_program_is_right():
    def program(x, y, image, kernel):
        product = jax.jit(lambda x, y: jnp.einsum("bij,bjk->bik", x, y))(x, y)
        layout = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(image, kernel, (2, 3), "VALID", dimension_numbers=layout)
        return product.sum() + out.sum()

    shapes = ((5, 2, 3), (5, 3, 7), (1, 4, 9, 2), (2, 3, 2, 11))
    inputs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    convolution = (2 * 3) * (2 * 3 * 2) * 11  # positions, window and channels, outputs
    assert counted_flops(program, *inputs) == 2 * (5 * 2 * 3 * 7 + convolution)


SMALL = {"patch_size": (2, 3), "width": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
ARCHITECTURES = {
    "class token": {},
    "mean": {"pool": "gap"},
    "mean beside a class token": {"pool": "gap", "class_token": True},
    "mean of all tokens": {"pool": "tokens-mean", "num_registers": 1},
    "attention pooling": {"pool": "map", "mlp_dim": 50, "num_registers": 2},
    "attention pooling, representation": {"pool": "map", "representation": 11},
    "representation": {"representation": 11},
    "sequence pooling": {"pool": "seq"},
    "shifted patches, rope": {"pool": "gap", "shifted_patches": True, "rope": True},
    "registers": {"num_registers": 3},
    "no pool": {"pool": "none"},
    "no pool, representation": {"pool": "none", "class_token": True, "representation": 11},
    "no head": {"num_classes": None},
    "no head, representation": {"num_classes": None, "representation": 11},
    "heads wider than the width": {"head_dim": 20, "mlp_dim": 10},
    "matmul, no biases": {"patch_method": "matmul", "qkv_bias": False, "positions": "sincos2d"},
    "square patch": {"patch_size": 1, "depth": 1},
}


@pytest.mark.parametrize("fields", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_forward_flops_are_those_of_the_program(fields):
    model = ViT(**SMALL | fields)
    params = abstract_params(model, (10, 21), channels=5)
    images = jax.ShapeDtypeStruct((1, 10, 21, 5), jnp.float32)
    counted = counted_flops(lambda p, x: model.apply({"params": p}, x), params, images)
    assert forward_flops(model, (10, 21), channels=5) == counted


def test_one_number_is_a_square_image():
    model = ViT(**SMALL)
    assert forward_flops(model, 12) == forward_flops(model, (12, 12)) < forward_flops(model, 18)
    assert parameter_count(model, 12) == parameter_count(model, (12, 12))


def test_a_training_step_costs_about_three_times_as_much():
    model = ViT(**SMALL | {"depth": 4})
    params = abstract_params(model, (10, 21))
    image = jax.ShapeDtypeStruct((1, 10, 21, 3), jnp.float32)

    def loss(params, image):
        return (model.apply({"params": params}, image) ** 2).sum()

    step = counted_flops(jax.value_and_grad(loss), params, image)
    # A little less than three: images need no gradient.
    assert 2.9 < step / forward_flops(model, (10, 21)) <= 3


def test_published_multiply_adds():
    # torchvision's documentation of vit_b_16 and vit_l_16: 17.56 and 61.55 GFLOPS of multiply-adds.
    assert forward_flops(vit("B/16")) / 2e9 == pytest.approx(17.56, abs=0.01)
    assert forward_flops(vit("L/16")) / 2e9 == pytest.approx(61.55, abs=0.01)


def test_abstract_parameters_are_no_arrays():
    params = abstract_params(vit("B/16"), 224)
    assert all(type(leaf) is jax.ShapeDtypeStruct for leaf in jax.tree.leaves(params))
    kernel = params["encoder"]["block_11"]["mlp"]["fc1"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((768, 3072), jnp.float32)


MLP = 24 * 96 + 96 + 96 * 24 + 24


@pytest.mark.parametrize(
    ("fields", "image_size", "channels", "more"),
    [
        ({}, (10, 21), 3, 0),
        ({}, (10, 21), 1, -2 * 2 * 3 * 24),
        ({}, (4, 6), 3, -(35 - 4) * 24),
        ({"num_registers": 2}, (10, 21), 3, 2 * 24),
        ({"class_token": False, "pool": "gap"}, (10, 21), 3, -2 * 24),
        ({"positions": "none"}, (10, 21), 3, -36 * 24),
        ({"positions": "sincos2d"}, (10, 21), 3, -36 * 24),
        ({"qkv_bias": False}, (10, 21), 3, -2 * 72),
        ({"layer_scale": 0.1}, (10, 21), 3, 2 * 2 * 24),
        ({"block_output_norm": True}, (10, 21), 3, 2 * 2 * 24),
        ({"final_norm": "none"}, (10, 21), 3, -2 * 24),
        ({"num_classes": None}, (10, 21), 3, -(24 * 7 + 7)),
        ({"representation": 11}, (10, 21), 3, 24 * 11 + 11 - (24 - 11) * 7),
        ({"head_dim": 20}, (10, 21), 3, 2 * (4 * 24 * (60 - 24) + 3 * (60 - 24))),
        ({"mlp_dim": 50}, (10, 21), 3, -2 * (96 - 50) * (2 * 24 + 1)),
        # Probe, q, k and v, projection, norm and MLP; no class token nor its position.
        ({"pool": "map"}, (10, 21), 3, 24 + 4 * (24 * 24 + 24) + 2 * 24 + MLP - 2 * 24),
    ],
)
def test_parameters_of_each_part(fields, image_size, channels, more):
    # Attention, MLP and two norms; patches, class token, positions, blocks, norm and head.
    block = 4 * (24 * 24 + 24) + MLP + 4 * 24
    plain = (2 * 3 * 3 * 24 + 24) + 24 + 36 * 24 + 2 * block + 2 * 24 + (24 * 7 + 7)
    assert parameter_count(ViT(**SMALL | fields), image_size, channels) == plain + more


def test_an_impossible_model_has_no_cost():
    with pytest.raises(ValueError, match="num_heads=3 does not divide width=32"):
        forward_flops(ViT(patch_size=4, width=32, depth=1, num_heads=3), 8)
