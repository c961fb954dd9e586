"""Google's archives against a writing of their models in plain Flax, whose names are theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from vit_jax import load_pretrained
from vit_jax.ops.positions import sincos2d
from vit_jax.weights import WeightsError


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(hidden)


class EncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        normed = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(normed, normed)
        return x + MlpBlock(40)(nn.LayerNorm()(x))


class Transformer(nn.Module):
    class_position: bool

    @nn.compact
    def __call__(self, x):
        if self.class_position:
            x = AddPositions(name="posembed_input")(x)
        for i in range(2):
            x = EncoderBlock(name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class AddPositions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(1.0), (1, *x.shape[1:]))


class MAPHead(nn.Module):
    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(1.0), (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, (len(x), 1, 1))
        x = nn.MultiHeadDotProductAttention(num_heads=4)(probe, x)
        return (x + MlpBlock(40)(nn.LayerNorm()(x)))[:, 0]


class Reference(nn.Module):
    """The two code bases' ViT; positions: "old" (with the class token), "new" or "sincos2d"."""

    pool: str
    positions: str
    representation: int | None = None

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(32, (8, 8), strides=(8, 8), padding="VALID", name="embedding")(images)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width)
        if self.positions == "new":
            init = nn.initializers.normal(1.0)
            x = x + self.param("pos_embedding", init, (1, rows * columns, width))
        elif self.positions == "sincos2d":
            x = x + sincos2d(rows, columns, width)
        if self.pool == "tok":
            cls = self.param("cls", nn.initializers.normal(1.0), (1, 1, width))
            x = jnp.concatenate([jnp.tile(cls, (batch, 1, 1)), x], axis=1)
        x = Transformer(self.positions == "old", name="Transformer")(x)
        x = {"tok": lambda: x[:, 0], "gap": lambda: x.mean(axis=1), "map": lambda: MAPHead()(x)}[
            self.pool
        ]()
        if self.representation:
            x = nn.tanh(nn.Dense(self.representation, name="pre_logits")(x))
        return nn.Dense(7, name="head")(x)


def before_linen(name):
    """How Flax named a block's submodules before Linen, as in the published archives."""
    for new, old in (
        ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
        ("LayerNorm_1", "LayerNorm_2"),
        ("MlpBlock_0", "MlpBlock_3"),
    ):
        name = name.replace(f"/{new}/", f"/{old}/") if "/encoderblock_" in name else name
    return name


def stacked(arrays):
    """The blocks as a scan leaves them: one array with a leading axis for all of them."""
    blocks = {n: a for n, a in arrays.items() if "/encoderblock_" in n}
    rest = {n: a for n, a in arrays.items() if n not in blocks}
    for name in [n for n in blocks if "/encoderblock_0/" in n]:
        layers = [blocks[name.replace("_0/", f"_{i}/", 1)] for i in range(2)]
        rest[name.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
    return rest


@pytest.fixture
def archive(tmp_path):
    """`archive(reference, images, rename)`: its random parameters as .npz, and its logits."""

    def archive(reference, images, change=lambda arrays: arrays):
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(reference.init, jax.random.key(0), images)
        variables = jax.tree.map(
            lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32), shapes
        )
        arrays = flatten_dict(variables["params"], sep="/")
        np.savez(tmp_path / "a.npz", **change({k: np.asarray(v) for k, v in arrays.items()}))
        return tmp_path / "a.npz", np.asarray(reference.apply(variables, images))

    return archive


IMAGES = np.random.default_rng(1).normal(size=(2, 24, 24, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("reference", "change"),
    [
        (
            Reference("tok", "old", representation=16),
            lambda arrays: {before_linen(n): a for n, a in arrays.items()},
        ),
        (Reference("tok", "old"), lambda arrays: {before_linen(n): a for n, a in arrays.items()}),
        (Reference("tok", "old"), lambda arrays: arrays),
        (
            Reference("tok", "old"),
            lambda arrays: {n.replace("/posembed_input", ""): a for n, a in arrays.items()},
        ),
        (
            Reference("tok", "new"),
            lambda arrays: (
                {f"params/{n}": a for n, a in arrays.items()}
                | {"opt/0/count": np.zeros(()), "opt/0/mu/head/bias": np.zeros(7)}
            ),
        ),
        (Reference("gap", "new"), lambda arrays: {f"opt/target/{n}": a for n, a in arrays.items()}),
        (
            Reference("map", "new"),
            lambda arrays: (
                {f"params/img/{n}": a for n, a in arrays.items()}
                | {"params/txt/head/kernel": np.zeros((3, 7)), "params/t": np.zeros(1)}
            ),
        ),
        (
            Reference("map", "new"),
            lambda arrays: {n.removeprefix("MAPHead_0/"): a for n, a in arrays.items()},
        ),
        (Reference("gap", "new", representation=16), stacked),
    ],
    ids=["i21k", "AugReg", "Linen", "encoder", "tok", "gap", "SigLIP", "inlined MAP", "scan"],
)
def test_the_numbers_are_those_of_the_original(reference, change, archive):
    path, expected = archive(reference, IMAGES, change)
    model, variables, spec = load_pretrained(path, say=None)
    logits = model.apply(variables, IMAGES)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (model.activation, model.norm_eps, model.image_size) == ("gelu_tanh", 1e-6, (24, 24))
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


def test_without_positions_they_are_sincos2d_of_224_pixels(archive):
    images = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype(np.float32)
    path, expected = archive(Reference("gap", "sincos2d"), images)
    model, variables, spec = load_pretrained(path)
    assert spec.steps == (
        "positions: none in the file, so sincos2d; of 224 pixels, as in the configs",
        "resizing: straight to the image size, bilinear, assumed, as in Google's code, which does "
        "not antialias",
    )
    assert np.abs(model.apply(variables, images) - expected).max() <= 1e-5 * abs(expected).max()


def test_heads_that_differ_from_block_to_block_are_refused(archive):
    def turn(arrays):
        name = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0/query/kernel"
        return arrays | {name: arrays[name].transpose(0, 2, 1)}

    path, _ = archive(Reference("gap", "new"), IMAGES, turn)
    with pytest.raises(WeightsError, match=r"encoderblock_1.* \(32, 8, 4\), .* \(32, 4, 8\)"):
        load_pretrained(path)


def test_a_hybrid_is_refused_by_what_it_has_besides(archive):
    path, _ = archive(
        Reference("tok", "old"), IMAGES, lambda arrays: arrays | {"conv_root/kernel": np.ones(3)}
    )
    with pytest.raises(WeightsError, match=r"has conv_root/kernel, for which .* no place"):
        load_pretrained(path)
