"""Random parameters, and the PyTorch models whose numbers ours are compared with."""

import functools
import math
import types

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")


@pytest.fixture(scope="session")
def random_variables():
    """`random_variables(module, *inputs)`: parameters in which nothing is zero or one.

    Initial values would hide mistakes: a zero bias works in the wrong place too.
    """

    def draw(rng, path, leaf):
        value = rng.normal(size=leaf.shape)
        match path[-1].key:
            case "kernel":
                value /= math.sqrt(math.prod(leaf.shape[:-1]))
            case "scale":
                value = 1 + 0.3 * value
            case _:
                value *= 0.3
        return value.astype(leaf.dtype)

    @functools.cache
    def shapes(module, *inputs):
        inputs = [jax.ShapeDtypeStruct(*each) for each in inputs]
        return jax.eval_shape(module.init, jax.random.key(0), *inputs)

    def random_variables(module, *inputs, seed=0):
        rng = np.random.default_rng(seed)
        tree = shapes(module, *((x.shape, x.dtype) for x in inputs))
        return jax.tree_util.tree_map_with_path(functools.partial(draw, rng), tree)

    return random_variables


@pytest.fixture(scope="session")
def jit():
    """jax.jit for much compiling and little computing: without optimisations, to NumPy arrays.

    On arrays of jax, each operation of a test would be compiled by itself.
    """

    def jit(function):
        compiled = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
        return lambda *inputs: jax.tree.map(np.asarray, compiled(*inputs))

    return jit


@pytest.fixture(scope="session")
def apply(jit):
    """`apply(module, variables, *inputs, **options)`: module.apply, compiled by `jit`."""

    def apply(module, variables, *inputs, **options):
        return jit(functools.partial(module.apply, **options))(variables, *inputs)

    return apply


@pytest.fixture(scope="session")
def normal():
    """`normal(shape)`: a float32 array of unit normal numbers."""

    def normal(shape, seed=1):
        return np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    return normal


@pytest.fixture(scope="session")
def to_torch(torch):
    """An array of ours as a tensor of its own; images [b, h, w, c] as [b, c, h, w]."""

    def to_torch(x):
        x = torch.tensor(np.asarray(x))
        return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x

    return to_torch


@pytest.fixture(scope="session")
def load(torch):
    """Fill a PyTorch module; every tensor of it must be named, and nothing else."""

    def load(module, state):
        tensors = {name: torch.tensor(np.array(value)) for name, value in state.items()}
        module.load_state_dict(tensors, strict=True)
        return module

    return load


@pytest.fixture(scope="session")
def torch_names():
    """Our parameters, or their gradients, under PyTorch's names and in its layout."""

    def linear(params, prefix=""):
        state = {f"{prefix}weight": params["kernel"].T}
        return state | ({f"{prefix}bias": params["bias"]} if "bias" in params else {})

    def norm(params, prefix=""):
        return {f"{prefix}weight": params["scale"], f"{prefix}bias": params["bias"]}

    def convolution(params, prefix=""):
        kernel = params["kernel"].transpose(3, 2, 0, 1)
        return {f"{prefix}weight": kernel, f"{prefix}bias": params["bias"]}

    def attention(params, prefix=""):
        """torch.nn.MultiheadAttention; it has all biases or none."""
        bias = params["qkv"].get("bias", np.zeros(params["qkv"]["kernel"].shape[1], np.float32))
        return {
            f"{prefix}in_proj_weight": params["qkv"]["kernel"].T,
            f"{prefix}in_proj_bias": bias,
            **linear(params["proj"], f"{prefix}out_proj."),
        }

    def block(params, prefix=""):
        """torch.nn.TransformerEncoderLayer."""
        return {
            **attention(params["attn"], f"{prefix}self_attn."),
            **linear(params["mlp"]["fc1"], f"{prefix}linear1."),
            **linear(params["mlp"]["fc2"], f"{prefix}linear2."),
            **norm(params["norm1"], f"{prefix}norm1."),
            **norm(params["norm2"], f"{prefix}norm2."),
        }

    def ends(params):
        """What both models below have before and after their blocks."""
        state = {"positions": params["pos_embed"]}
        if "cls_token" in params:
            state["token"] = params["cls_token"]
        convolved = convolution(params["patch_embed"], "patches.")
        return state | convolved | linear(params["head"], "head.")

    def vit(params):
        """`PlainViT`, below."""
        state = ends(params) | norm(params["norm"], "norm.")
        for i in range(len(params["encoder"])):
            state |= block(params["encoder"][f"block_{i}"], f"blocks.{i}.")
        return state

    def tutorial(params, num_heads):
        """`TutorialViT`, below: head by head its q, k and v; ours are q of all heads, k, v."""
        state = ends(params)
        for i in range(len(params["encoder"])):
            ours, prefix = params["encoder"][f"block_{i}"], f"blocks.{i}."
            kernel = ours["attn"]["qkv"]["kernel"]
            kernel = kernel.reshape(len(kernel), 3, num_heads, -1).transpose(2, 1, 3, 0)
            state |= {
                f"{prefix}qkv.weight": kernel.reshape(-1, kernel.shape[-1]),
                **linear(ours["attn"]["proj"], f"{prefix}out."),
                **linear(ours["mlp"]["fc1"], f"{prefix}hidden."),
                **linear(ours["mlp"]["fc2"], f"{prefix}back."),
                **norm(ours["norm1"], f"{prefix}before_attention."),
                **norm(ours["norm2"], f"{prefix}before_hidden."),
                **norm(ours["norm3"], f"{prefix}after."),
            }
        return state

    return types.SimpleNamespace(
        linear=linear,
        norm=norm,
        convolution=convolution,
        attention=attention,
        block=block,
        vit=vit,
        tutorial=tutorial,
    )


@pytest.fixture(scope="session")
def plain_vit(torch):
    """A ViT of PyTorch's own layers: class token or mean of the patches, pre-norm, final norm."""
    nn = torch.nn

    class PlainViT(nn.Module):
        def __init__(
            self, channels, patch_size, patches, width, depth, heads, hidden, classes, token
        ):
            super().__init__()
            self.patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
            self.token = nn.Parameter(torch.empty(1, 1, width)) if token else None
            self.positions = nn.Parameter(torch.empty(1, patches + token, width))
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width,
                    heads,
                    dim_feedforward=hidden,
                    dropout=0.0,
                    activation="gelu",
                    layer_norm_eps=1e-6,
                    batch_first=True,
                    norm_first=True,
                )
                for _ in range(depth)
            )
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.head = nn.Linear(width, classes)

        def forward(self, images):
            x = self.patches(images).flatten(2).transpose(1, 2)
            if self.token is not None:
                x = torch.cat([self.token.repeat(len(x), 1, 1), x], dim=1)
            x = x + self.positions
            for block in self.blocks:
                x = block(x)
            x = self.norm(x)
            return self.head(x.mean(1) if self.token is None else x[:, 0])

    return PlainViT


@pytest.fixture(scope="session")
def tutorial_vit(torch):
    """The ViT of a tutorial for PyTorch, which differs from the paper's in many places.

    No q/k/v biases, heads * head_dim is not the width, a second GELU after the MLP, a LayerNorm on
    each block's output and none at the end. Returns the logits and each block's attention.
    """
    nn = torch.nn

    class TutorialBlock(nn.Module):
        def __init__(self, width, heads, head_dim, hidden):
            super().__init__()
            self.heads, self.head_dim = heads, head_dim
            self.before_attention = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, heads * 3 * head_dim, bias=False)
            self.out = nn.Linear(heads * head_dim, width)
            self.before_hidden = nn.LayerNorm(width)
            self.hidden = nn.Linear(width, hidden)
            self.back = nn.Linear(hidden, width)
            self.after = nn.LayerNorm(width)

        def forward(self, x):
            qkv = self.qkv(self.before_attention(x)).unflatten(2, (self.heads, 3, self.head_dim))
            q, k, v = qkv.unbind(dim=3)
            scores = torch.einsum("bqkh,bnkh->bkqn", q, k) / self.head_dim**0.5
            weights = scores.softmax(dim=-1)
            x = x + self.out(torch.einsum("bkqn,bnkh->bqkh", weights, v).flatten(2))
            hidden = nn.functional.gelu(self.hidden(self.before_hidden(x)))
            return self.after(x + nn.functional.gelu(self.back(hidden))), weights

    class TutorialViT(nn.Module):
        def __init__(
            self, channels, patch_size, patches, width, depth, heads, head_dim, hidden, classes
        ):
            super().__init__()
            self.patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
            self.token = nn.Parameter(torch.empty(1, 1, width))
            self.positions = nn.Parameter(torch.empty(1, patches + 1, width))
            self.blocks = nn.ModuleList(
                TutorialBlock(width, heads, head_dim, hidden) for _ in range(depth)
            )
            self.head = nn.Linear(width, classes)

        def forward(self, images):
            x = self.patches(images).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.repeat(len(x), 1, 1), x], dim=1) + self.positions
            seen = []
            for block in self.blocks:
                x, weights = block(x)
                seen.append(weights)
            return self.head(x[:, 0]), seen

    return TutorialViT
