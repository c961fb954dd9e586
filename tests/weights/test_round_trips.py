"""Ours -> a layout -> ours: every bit of every parameter, and the architecture."""

import jax
import numpy as np
import pytest
from weights.random_models import NAMES, suffix

from vit_jax import load_pretrained, save_pretrained
from vit_jax.config import fields_of
from vit_jax.models import ViT
from vit_jax.weights import WeightsError
from vit_jax.weights.layout import Preprocessing
from vit_jax.weights.trees import flat

TANH = {"activation": "gelu_tanh"}
CASES = [
    ("huggingface", {}),
    ("huggingface", {"qkv_bias": False, "num_heads": 4}),
    ("huggingface", {"norm_eps": 1e-12, "image_size": (24, 32), **TANH}),
    ("huggingface", {"num_classes": None}),
    ("huggingface", {"num_classes": None, "representation": 40}),
    ("timm", {"num_heads": 4}),
    ("timm", {"num_heads": 4, "qk_norm": True, "layer_scale": 0.1, **TANH}),
    ("timm", {"qkv_bias": False, "image_size": (24, 32), "patch_size": (8, 4)}),
    ("timm", {"num_registers": 3}),
    ("timm", {"num_registers": 3, "class_position": False}),
    ("timm", {"pool": "gap", "num_registers": 3, "class_token": True, "final_norm": "pooled"}),
    ("timm", {"pool": "gap", "class_token": False, "num_registers": 1}),
    ("timm", {"pool": "map", "class_token": False}),
    ("timm", {"pool": "map", "class_token": True}),
    ("timm", {"pool": "tokens-mean", "num_classes": None}),
    ("timm", {"pool": "none", "final_norm": "none"}),
    ("timm", {"positions": "none"}),
    ("torchvision", {}),
    ("torchvision", {"representation": 40}),
    ("google", TANH),
    ("google", {"num_heads": 4, "head_dim": 8, "representation": 40, **TANH}),
    ("google", {"class_position": False, **TANH}),
    ("google", {"pool": "gap", "class_token": False, "num_classes": None, **TANH}),
    ("google", {"pool": "map", "class_token": False, "num_heads": 4, "representation": 40, **TANH}),
    ("google", {"pool": "gap", "positions": "sincos2d", "image_size": (224, 224), **TANH}),
]
# Told by nothing in a file, because they make no difference to the numbers or to a loaded model.
FREE = {"mlp_dim", "class_token", "class_position", "init_scheme", "layer_scale", "patch_size"}


@pytest.mark.parametrize(("layout", "fields"), CASES, ids=lambda value: str(value))
def test_every_bit_comes_back(layout, fields, random_model, images_of, preprocessing, tmp_path):
    model, variables = random_model(**fields)
    path = tmp_path / f"model{suffix(layout)}"
    save_pretrained(path, layout, model, variables, preprocessing, say=None)
    loaded, again, spec = load_pretrained(path, say=None)

    before, after = flat(variables["params"]), flat(again["params"])
    assert list(before) == list(after)
    for name, value in before.items():
        assert np.array_equal(value, after[name]), name
        assert after[name].dtype == np.float32
    assert [
        name
        for name in fields_of(ViT)
        if name not in FREE and getattr(loaded, name) != getattr(model, name)
    ] in ([], ["image_size"])  # a square may come back as one number
    images = images_of(model)
    assert np.array_equal(model.apply(variables, images), loaded.apply(again, images))
    # Nothing was changed; some layouts leave something to be assumed, which is said.
    assumed = ("num_heads=", "positions:", "resizing:")
    assert not [step for step in spec.steps if not step.startswith(assumed)]
    assert not spec.fresh_head
    if layout in ("huggingface", "timm"):
        assert (spec.mean, spec.std) == (preprocessing.mean, preprocessing.std)
        assert spec.class_names == (NAMES if model.num_classes else None)


@pytest.mark.parametrize(
    ("layout", "fields"),
    [
        ("huggingface", {"class_position": False}),
        ("huggingface", {"positions": "sincos2d"}),
        ("torchvision", {"class_position": False}),
        ("timm", {"positions": "sincos2d", "pool": "gap", "class_token": False}),
        ("timm", {"positions": "sincos2d", "num_registers": 2}),
        ("google", {"positions": "sincos2d", **TANH}),
        ("timm", {"patch_kernel_size": 4}),
        ("google", {"patch_kernel_size": (12, 8), **TANH}),
    ],
    ids=str,
)
def test_positions_and_patches_in_another_form_are_the_same_function(
    layout, fields, saved, random_model, images_of
):
    model, variables = random_model(**fields)
    loaded, again, _ = load_pretrained(saved(layout, **fields), say=None)
    images = images_of(model)
    expected = np.asarray(model.apply(variables, images))
    np.testing.assert_allclose(loaded.apply(again, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layout", "fields", "reason"),
    [
        ("huggingface", {"pool": "gap"}, "pool='gap'"),
        ("huggingface", {"num_registers": 4}, "num_registers=4"),
        ("huggingface", {"representation": 40}, "representation=40"),
        ("huggingface", {"num_heads": 4, "head_dim": 8}, "head_dim=8"),
        ("huggingface", {"num_heads": 4, "qk_scale": 1.0}, "qk_scale=1.0"),
        ("huggingface", {"positions": "none"}, "positions='none'"),
        ("timm", {"representation": 40}, "representation=40"),
        ("timm", {"block_output_norm": True}, "block_output_norm=True"),
        ("timm", {"pool": "seq"}, "pool='seq'"),
        ("timm", {"norm": "rms"}, "norm='rms'"),
        ("huggingface", {"rope": True}, "rope=True"),
        ("google", {"shifted_patches": True}, "shifted_patches=True"),
        ("torchvision", {"layer_scale": 0.1}, "layer_scale=0.1"),
        ("torchvision", {"qkv_bias": False}, "qkv_bias=False"),
        ("torchvision", {"image_size": (24, 32)}, "image_size="),
        ("torchvision", {"num_heads": 2}, "num_heads=2 with width=64"),
        ("torchvision", {"width": 100, "num_heads": 4}, "num_heads=4 with width=100"),
        ("google", {"image_size": (16, 64)}, "which makes 2x8 patches"),
        (
            "google",
            {"pool": "gap", "class_token": False, "positions": "sincos2d"},
            "positions='sincos2d' with image_size",
        ),
        ("google", {"qk_norm": True}, "qk_norm=True"),
        ("google", {"pool": "gap", "class_token": True}, "pool='gap' with class_token=True"),
    ],
    ids=str,
)
def test_what_a_layout_has_not_is_refused(
    layout, fields, reason, random_model, preprocessing, tmp_path
):
    model, variables = random_model(**fields)
    with pytest.raises(WeightsError, match="has no counterpart for .*" + reason):
        save_pretrained(tmp_path / f"m{suffix(layout)}", layout, model, variables, preprocessing)
    assert list(tmp_path.iterdir()) == []


def test_what_gets_lost_is_said(random_model, preprocessing, tmp_path):
    model, variables = random_model(norm_eps=1e-5, activation="gelu_tanh")
    lines = []
    for layout in ("huggingface", "timm", "torchvision", "google"):
        path = tmp_path / f"{layout}{suffix(layout)}"
        save_pretrained(path, layout, model, variables, preprocessing, say=lines.append)
    assert lines == [
        "crop_rounding='none' becomes 'down' there: the centre can lie a pixel beside",
        "norm_eps=1e-05 becomes 1e-06 there",
        "crop_rounding='none' becomes 'even' there: the centre can lie a pixel beside",
        "mean, std, class names and resizing are not stored: torchvision keeps them in its code",
        "norm_eps=1e-05 becomes 1e-06 there",
        "activation='gelu_tanh' becomes exact GELU there",
        "mean, std, class names and resizing are not stored: Google's code takes pixels in -1..1",
        "norm_eps=1e-05 becomes 1e-06 there",
    ]


def test_nothing_is_overwritten(saved, random_model, preprocessing):
    path = saved("google", **TANH)
    before = path.read_bytes()
    model, variables = random_model(**TANH)
    with pytest.raises(WeightsError, match=r"exists already: name another place"):
        save_pretrained(path, "google", model, variables, preprocessing)
    assert path.read_bytes() == before


def test_saving_needs_to_know_size_and_channels(random_model, preprocessing, tmp_path):
    model, variables = random_model()
    with pytest.raises(WeightsError, match=r"model.clone\(image_size=224, channels=3\)"):
        save_pretrained(
            tmp_path / "m", "timm", model.clone(image_size=None), variables, preprocessing
        )
    with pytest.raises(WeightsError, match="'keras': use one of huggingface, timm"):
        save_pretrained(tmp_path / "m", "keras", model, variables, preprocessing)


def test_one_model_through_all_four_layouts(random_model, images_of, tmp_path):
    model, variables = random_model()
    images, source = images_of(model), (model, variables, Preprocessing((0.5,) * 3, (0.5,) * 3))
    for layout in ("huggingface", "timm", "torchvision", "huggingface", "google"):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}{suffix(layout)}"
        save_pretrained(path, layout, *source, say=None)
        source = load_pretrained(path, say=None)
    last = source[0].clone(activation="gelu")  # Google's code computes it by tanh
    expected = np.asarray(model.apply(variables, images))
    assert np.array_equal(expected, last.apply(source[1], images))
    jax.tree.map(np.testing.assert_array_equal, variables, source[1])
