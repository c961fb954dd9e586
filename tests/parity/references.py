"""The PyTorch models whose numbers ours have to equal, small and with random parameters."""

import math
import tempfile
from collections.abc import Callable

import torch
from parity import layouts, tutorials
from parity.skeleton import Embeddings, Reference, Stack, StridedPatches, Trace
from torch import nn

from vit_jax import ViT


class WatchedEncoderLayer(nn.TransformerEncoderLayer):
    """PyTorch's own layer, pre-norm and with exact GELU; returns the attention weights as well."""

    def __init__(self, width, num_heads, hidden, eps):
        super().__init__(
            width,
            num_heads,
            hidden,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
            norm_first=True,
        )

    def forward(self, x):
        normed = self.norm1(x)
        # The layer itself does not ask for the weights, so its attention is called once more.
        _, weights = self.self_attn(normed, normed, normed, average_attn_weights=False)
        return super().forward(x), weights

    def to_ours(self, state, name):
        # torch.nn.MultiheadAttention names its q/k/v product unlike a torch.nn.Linear.
        parts = ("weight", "bias")
        qkv = {f"qkv.{part}": state[f"{name}.self_attn.in_proj_{part}"] for part in parts}
        return {
            "attn": {
                "qkv": layouts.linear(qkv, "qkv"),
                "proj": layouts.linear(state, f"{name}.self_attn.out_proj"),
            },
            "mlp": {
                "fc1": layouts.linear(state, f"{name}.linear1"),
                "fc2": layouts.linear(state, f"{name}.linear2"),
            },
            "norm1": layouts.norm(state, f"{name}.norm1"),
            "norm2": layouts.norm(state, f"{name}.norm2"),
        }


class TorchLayers(Stack):
    """The ViT of the paper from PyTorch's own layers; neither image nor patches are square."""

    image = (16, 24, 3)
    ours = ViT(patch_size=(4, 8), width=48, depth=2, num_heads=4, mlp_dim=96, num_classes=7)

    def __init__(self):
        super().__init__(
            Embeddings(StridedPatches(3, 48, (4, 8)), 12, 48),
            [WatchedEncoderLayer(48, 4, 96, eps=1e-6) for _ in range(2)],
            nn.Linear(48, 7),
            nn.LayerNorm(48, eps=1e-6),
        )


class HuggingFace(Reference):
    """`transformers.ViTForImageClassification`, saved by it and read by `load_pretrained`."""

    image = (32, 32, 3)

    def __init__(self, qkv_bias: bool):
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(
            image_size=32,
            patch_size=8,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            num_labels=10,
            qkv_bias=qkv_bias,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",  # the one that returns the attention weights
        )
        self.model = ViTForImageClassification(config)
        self.ours, _ = self._through_files(self.model.state_dict())

    def trace(self, images):
        """See `Reference.trace`; hooks read what enters and leaves the layers.

        Where `output_hidden_states` puts the final LayerNorm depends on the version.
        """
        entered, left = [], []

        def watch(_, inputs, output):
            entered.append(inputs[0])
            left.append(output[0] if isinstance(output, tuple) else output)

        layers = [layer for layer in self.model.modules() if type(layer).__name__ == "ViTLayer"]
        hooks = [layer.register_forward_hook(watch) for layer in layers]
        out = self.model(images, output_attentions=True)
        for hook in hooks:
            hook.remove()
        return Trace(entered[0], left, list(out.attentions), out.logits)

    def forward(self, images):
        return self.model(images).logits

    def to_ours(self, state):
        tensors = {name.removeprefix("model."): torch.tensor(x) for name, x in state.items()}
        return self._through_files(tensors)[1]

    def _through_files(self, tensors: dict[str, torch.Tensor]) -> tuple[ViT, dict]:
        """Our model and parameters, by way of a folder: in files the names are others."""
        from vit_jax.weights import load_pretrained

        model = type(self.model)(self.model.config)
        model.load_state_dict(tensors, strict=True)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            ours, variables, _ = load_pretrained(folder)
        return ours, variables["params"]


REFERENCES: dict[str, Callable[[], Reference]] = {
    "transformers ViT": lambda: HuggingFace(qkv_bias=True),
    "transformers ViT, no qkv bias": lambda: HuggingFace(qkv_bias=False),
    "torch.nn layers": TorchLayers,
    "tutorial 1": tutorials.Tutorial1,
    "tutorial 2": tutorials.Tutorial2,
    "tutorial 3": tutorials.Tutorial3,
    "tutorial 4": tutorials.Tutorial4,
    "tutorial 4, pooled": tutorials.Tutorial4Pooled,
}


def make_reference(name: str) -> Reference:
    """A reference of `REFERENCES`, always with the same random parameters."""
    reference = REFERENCES[name]()
    randomise(reference, seed=0)
    return reference


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Random parameters, none of them zero or one: initial values would hide mistakes.

    Tokens start small, as they do in a training. Where their variance is 1, an epsilon of 1e-6 in
    LayerNorm does no more than one of 1e-12, and the wrong one would pass.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if not name.endswith("weight"):
            draw = 0.3 * draw  # biases, tokens, positions, LayerScale
        elif parameter.ndim == 1:
            draw = 1 + 0.3 * draw  # LayerNorm
        else:
            draw = draw / math.sqrt(parameter[0].numel())
        parameter.copy_(0.2 * draw if "embeddings" in name else draw)
