"""Other image sizes, patches, channels and heads."""

import jax
import jaxtyping
import numpy as np
import pytest

from vit_jax import ViT, load_pretrained
from vit_jax.ops.resample import resample_patch_kernel, resample_positions
from vit_jax.weights import WeightsError
from vit_jax.weights.adapt import adapt
from vit_jax.weights.trees import flat


def test_another_size_says_what_it_does_and_keeps_the_class_entry(saved):
    path = saved("timm", num_heads=4)
    _, before, _ = load_pretrained(path, say=None)
    lines = []
    model, after, spec = load_pretrained(path, image_size=(40, 16), say=lines.append)
    assert lines == ["pos_embed: resampled from 3x3 to 5x2 patches, bicubic_antialias"]
    assert (spec.steps, spec.image_size) == (tuple(lines), (40, 16))
    old, new = (np.asarray(v["params"]["pos_embed"][0]) for v in (before, after))
    assert np.array_equal(old[0], new[0])
    grid = resample_positions(old[1:].reshape(3, 3, -1), (5, 2), "bicubic_antialias")
    np.testing.assert_array_equal(new[1:], grid.reshape(10, -1))
    assert model.apply(after, np.zeros((1, 40, 16, 3), np.float32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("fields", "prefix"),
    [
        ({"pool": "gap", "class_token": False}, 0),
        ({"num_registers": 3}, 1),
        ({"num_registers": 3, "class_position": False}, 0),
    ],
    ids=str,
)
def test_positions_are_resampled_with_and_without_class_token_and_registers(fields, prefix, saved):
    path = saved("timm", **fields)
    _, before, _ = load_pretrained(path, say=None)
    model, after, _ = load_pretrained(path, image_size=16, say=None)
    old, new = (np.asarray(v["params"]["pos_embed"][0]) for v in (before, after))
    assert len(new) == prefix + 4
    grid = resample_positions(old[prefix:].reshape(3, 3, -1), (2, 2), "bicubic_antialias")
    np.testing.assert_array_equal(new[prefix:], grid.reshape(4, -1))
    np.testing.assert_array_equal(new[:prefix], old[:prefix])
    assert model.apply(after, np.zeros((1, 16, 16, 3), np.float32)).shape == (1, 5)


def test_the_interpolation_is_that_of_the_source_unless_another_is_asked_for(saved):
    for layout, name in (("torchvision", "bicubic_corners"), ("google", "linear_corners")):
        path = saved(layout)
        _, _, spec = load_pretrained(path, image_size=40, say=None)
        assert spec.steps[-1] == f"pos_embed: resampled from 3x3 to 5x5 patches, {name}"
    _, _, spec = load_pretrained(path, image_size=40, interpolation="bicubic", say=None)
    assert spec.steps[-1].endswith("bicubic")


def test_sincos_positions_need_no_resampling(saved):
    fields = {"pool": "gap", "class_token": False, "positions": "sincos2d"}
    path = saved("google", image_size=(224, 224), **fields)
    _, _, spec = load_pretrained(path, image_size=32, say=None)
    assert spec.image_size == (32, 32)
    assert not any("resampled" in step for step in spec.steps)


def test_another_patch_size_resizes_the_kernel(saved):
    path = saved("huggingface")
    _, before, _ = load_pretrained(path, say=None)
    model, after, spec = load_pretrained(path, patch_size=4, image_size=12, say=None)
    assert spec.steps == ("patch_embed: patches of 8x8 pixels resized to 4x4, by pseudo-inverse",)
    expected = resample_patch_kernel(
        np.asarray(before["params"]["patch_embed"]["kernel"]), (4, 4), "bicubic_antialias"
    )
    np.testing.assert_array_equal(after["params"]["patch_embed"]["kernel"], expected)
    np.testing.assert_array_equal(after["params"]["pos_embed"], before["params"]["pos_embed"])
    assert model.apply(after, np.zeros((1, 12, 12, 3), np.float32)).shape == (1, 5)


def test_one_channel_sees_a_grey_image_as_three_equal_ones_do(saved):
    path = saved("huggingface")
    colour, colour_variables, _ = load_pretrained(path, say=None)
    grey, grey_variables, spec = load_pretrained(path, channels=1, say=None)
    assert spec.steps == ("patch_embed: 3 channels made 1",)
    assert spec.mean == (pytest.approx(0.4),)
    assert len(spec.std) == 1
    images = np.random.default_rng(0).normal(size=(2, 24, 24, 1)).astype(np.float32)
    expected = np.asarray(colour.apply(colour_variables, np.repeat(images, 3, axis=3)))
    np.testing.assert_allclose(grey.apply(grey_variables, images), expected, rtol=1e-4)


def test_more_channels_repeat_the_old_ones_with_tokens_of_the_same_size(saved):
    path = saved("huggingface")
    _, before, _ = load_pretrained(path, say=None)
    _, after, spec = load_pretrained(path, channels=5, say=None)
    old, new = (np.asarray(v["params"]["patch_embed"]["kernel"]) for v in (before, after))
    np.testing.assert_allclose(new, old[:, :, [0, 1, 2, 0, 1]] * 3 / 5, rtol=1e-6)
    assert spec.mean == (0.5, 0.4, 0.3, 0.5, 0.4)


def test_another_number_of_classes_is_a_new_head_and_said(saved):
    path = saved("huggingface")
    lines = []
    model, variables, spec = load_pretrained(path, num_classes=2, say=lines.append)
    assert lines == ["head: initialised anew for 2 classes (instead of 5); train it"]
    assert spec.fresh_head
    assert spec.class_names is None
    assert not np.any(variables["params"]["head"]["kernel"])
    assert model.apply(variables, np.ones((1, 24, 24, 3), np.float32)).tolist() == [[0, 0]]
    kernels = [
        np.asarray(
            load_pretrained(path, 2, head_zero_init=False, seed=seed, say=None)[1]["params"][
                "head"
            ]["kernel"]
        )
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert kernels[0].std() == pytest.approx(64**-0.5, rel=0.2)


def test_the_same_number_of_classes_keeps_the_head(saved):
    _, _, spec = load_pretrained(saved("huggingface"), num_classes=5, say=None)
    assert not spec.fresh_head
    assert spec.steps == ()


def test_without_a_head_features_come_out(saved):
    path = saved("huggingface")
    model, variables, spec = load_pretrained(path, num_classes=0, say=None)
    assert spec.steps == ("head: dropped",)
    assert spec.class_names is None
    assert "head" not in variables["params"]
    assert model.apply(variables, np.zeros((1, 24, 24, 3), np.float32)).shape == (1, 64)


def test_a_file_without_a_head_gets_one(saved):
    path = saved("huggingface", num_classes=None)
    _, variables, spec = load_pretrained(path, num_classes=3, say=None)
    assert spec.steps == ("head: initialised anew for 3 classes (the file has none); train it",)
    assert variables["params"]["head"]["kernel"].shape == (64, 3)


def test_the_representation_can_be_dropped_with_its_head(saved):
    path = saved("google", representation=40)
    _, variables, spec = load_pretrained(path, num_classes=5, representation=None, say=None)
    assert "representation: dropped" in spec.steps
    assert spec.fresh_head
    assert variables["params"]["head"]["kernel"].shape == (64, 5)


def test_fields_that_touch_no_parameter_are_free(saved):
    model, variables, _ = load_pretrained(
        saved("huggingface"), dropout=0.1, drop_path=0.2, dtype="bfloat16", say=None
    )
    assert (model.dropout, model.drop_path) == (0.1, 0.2)
    assert model.apply(variables, np.zeros((1, 24, 24, 3), np.float32)).dtype == "bfloat16"
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 3}, r"lacks encoder/block_2/.* and \d+ more"),
        ({"depth": 1}, r"holds encoder/block_1/.* besides"),
        ({"num_registers": 2}, "lacks register_tokens"),
        (
            {"width": 32},
            r"cls_token has shape \(1, 1, 64\), the model asked for needs \(1, 1, 32\)",
        ),
        ({"layer_scale": 0.1}, "lacks encoder/block_0/layer_scale1/gamma"),
    ],
    ids=str,
)
def test_what_no_adaptation_can_give_is_an_error_that_names_it(fields, message, saved):
    path = saved("huggingface")
    with pytest.raises(WeightsError, match=message + r".*; leave out the fields of the model"):
        load_pretrained(path, **fields)


def test_an_interpolation_that_is_none_is_refused(saved):
    jaxtyping.config.update("jaxtyping_disable", True)  # types are checked in tests alone
    try:
        refuse_nonsense(saved)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def refuse_nonsense(saved):
    with pytest.raises(WeightsError, match="interpolation='nearest': use one of bicubic, "):
        load_pretrained(saved("timm"), image_size=16, interpolation="nearest")
    with pytest.raises(WeightsError, match="num_classes=-1: use a positive number"):
        load_pretrained(saved("huggingface"), num_classes=-1)


def test_an_image_that_patches_do_not_fill_is_refused(saved):
    with pytest.raises(ValueError, match=r"patch_size=.* does not divide the image of 30x30"):
        load_pretrained(saved("huggingface"), image_size=30)
    assert isinstance(load_pretrained(saved("timm"), say=None)[0], ViT)


def test_a_stored_patch_kernel_serves_every_patch_size(random_model):
    have, variables = random_model(patch_size=8, patch_kernel_size=4)
    params = flat(variables["params"])
    other = have.clone(patch_size=4)
    adapted, steps, _ = adapt(params, have, other, "bicubic")
    np.testing.assert_array_equal(adapted["patch_embed/kernel"], params["patch_embed/kernel"])
    assert steps == ["pos_embed: resampled from 3x3 to 6x6 patches, bicubic"]
    fixed = have.clone(patch_kernel_size=None)
    adapted, steps, _ = adapt(params, have, fixed, "bicubic")
    assert steps == ["patch_embed: patches of 4x4 pixels resized to 8x8, by pseudo-inverse"]
    assert adapted["patch_embed/kernel"].shape == (8, 8, 3, 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 1}, "take patches of 8x8 pixels and 3 channels alone"),
        ({"patch_size": 4}, "take patches of 8x8 pixels and 3 channels alone"),
        ({"shifted_patches": False}, "shifted_patches=False was asked for, and the weights were"),
    ],
)
def test_shifted_patches_stay_as_they_are(random_model, fields, message):
    have, variables = random_model(shifted_patches=True)
    params = flat(variables["params"])
    assert adapt(params, have, have.clone(num_classes=3), "bicubic")[1] == [
        "head: initialised anew for 3 classes (instead of 5); train it"
    ]
    with pytest.raises(WeightsError, match=message):
        adapt(params, have, have.clone(**fields), "bicubic")
