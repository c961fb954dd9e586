"""The names and shapes that timm and torchvision publish, without either of them installed.

The tables are made by `python benchmarks/published.py --tables`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from vit_jax import parameter_count
from vit_jax.weights import LAYOUTS, WeightsError
from vit_jax.weights.files import TensorFile
from vit_jax.weights.pretrained import _describe, _recognise
from vit_jax.weights.timm_config import describe
from vit_jax.weights.trees import parameter_shapes

TABLES = {
    system: json.loads((Path(__file__).parent / "tables" / f"{system}.json").read_text())
    for system in ("timm", "torchvision")
}
MODELS = [(system, name) for system, table in TABLES.items() for name in table["models"]]


def tensors_of(entry):
    """The arrays of an entry, as zeros."""
    depth = entry.get("fields", {}).get("depth", 2)
    shapes = {
        name.format(i=block): tuple(shape)
        for name, shape in entry["tensors"].items()
        for block in (range(depth) if "{i}" in name else [0])
    }
    return TensorFile(Path("made/up"), shapes, lambda name: np.zeros(shapes[name], np.float32))


def open_entry(system, entry):
    """Layout, arrays and architecture of an entry, as `open_pretrained` finds them."""
    tensors, config = tensors_of(entry), entry.get("config", {})
    layout = _recognise(tensors)
    assert layout is LAYOUTS[system]
    return layout, *_describe(layout, tensors, config)


@pytest.mark.parametrize(("system", "name"), MODELS, ids="-".join)
def test_an_architecture_is_told_by_its_file(system, name):
    entry = TABLES[system]["models"][name]
    layout, tensors, model, _ = open_entry(system, entry)
    for field, value in entry["fields"].items():
        found = getattr(model, field)
        if field == "layer_scale":
            found = found is not None
        assert found == (tuple(value) if isinstance(value, list) else value), field

    # Every array has its place, and makes as many numbers of ours.
    places = layout._places(model, parameter_shapes(model))
    used = [name for _, names in places.values() for name in names]
    assert sorted(used) == sorted(tensors.shapes)
    count = sum(int(np.prod(shape)) for shape in tensors.shapes.values())
    assert parameter_count(model, model.image_size, model.channels) == count


# The larger ones would need gigabytes; their names and shapes are compared above.
@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32"])
def test_zeros_are_read_into_the_shapes_of_ours(name):
    layout, tensors, model, _ = open_entry("torchvision", TABLES["torchvision"]["models"][name])
    params = layout.read(tensors, model, parameter_shapes(model))
    assert {path: value.shape for path, value in params.items()} == parameter_shapes(model)


@pytest.mark.parametrize("name", TABLES["timm"]["refused"])
def test_what_computes_otherwise_is_refused(name):
    entry = TABLES["timm"]["refused"][name]

    def read():
        layout, tensors, model, _ = open_entry("timm", entry)
        layout.read(tensors, model, parameter_shapes(model))

    with pytest.raises(WeightsError):
        read()


def test_what_no_array_shows_is_known_of_every_name():
    names = TABLES["timm"]["names"]
    assert len(names) > 100
    for name, (width, heads, activation, epsilon, pool) in names.items():
        shapes = {
            "patch_embed.proj.weight": (width, 3, 16, 16),
            "pos_embed": (1, 197 if pool in ("cls", "tokens-mean") else 196, width),
            "blocks.0.mlp.fc1.weight": (4 * width, width),
        }
        if pool in ("cls", "tokens-mean"):
            shapes["cls_token"] = (1, 1, width)
        if pool == "map":
            shapes["attn_pool.latent"] = (1, 1, width)
        model, _ = describe(
            TensorFile(Path("made/up"), shapes, lambda _: np.zeros(0)),
            {"architecture": name, "model_args": {"img_size": 224}},
            None,
        )
        assert (model.num_heads, model.activation, model.norm_eps) == (heads, activation, epsilon)
