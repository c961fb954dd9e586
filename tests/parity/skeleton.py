"""What all PyTorch references share: a trace of what they compute, tokens, a stack of blocks."""

from typing import NamedTuple

import torch
from parity import layouts
from torch import nn
from torch.nn import functional

from vit_jax import ViT


class Trace(NamedTuple):
    """What a reference computes on its way, as PyTorch tensors."""

    embeddings: torch.Tensor
    """[b, n, d], the tokens that enter the first block."""
    blocks: list[torch.Tensor]
    """[b, n, d], the output of each block."""
    attention: list[torch.Tensor]
    """[b, k, n, n], the attention weights of each block."""
    logits: torch.Tensor
    """[b, classes]."""


class Reference(nn.Module):
    """A PyTorch model, our model of the same architecture, and the way between their parameters.

    Parameters of what stands before the first block have `embeddings` in their names.
    """

    ours: ViT
    image: tuple[int, int, int]
    """Height, width and channels of an image."""

    def trace(self, images: torch.Tensor) -> Trace:
        """Everything that is compared, from images [b, c, h, w]."""
        raise NotImplementedError(f"{type(self).__name__} has to say what it computes on its way")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [b, classes], from images [b, c, h, w]."""
        return self.trace(images).logits

    def to_ours(self, state: layouts.State) -> dict:
        """Our parameters, from arrays under the names of `state_dict()`."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its parameters are")


class Stack(Reference):
    """Embeddings, blocks, one vector from all tokens, a LayerNorm on it or none, a linear head.

    Each block returns its output [b, n, d] and its attention weights [b, k, n, n].
    """

    def __init__(self, embeddings, blocks, head, norm):
        super().__init__()
        self.embeddings, self.blocks = embeddings, nn.ModuleList(blocks)
        self.head, self.norm = head, norm

    def trace(self, images):
        embeddings = x = self.embeddings(images)
        outputs, attention = [], []
        for block in self.blocks:
            x, weights = block(x)
            outputs.append(x)
            attention.append(weights)
        x = self.pool(x)
        logits = self.head(x if self.norm is None else self.norm(x))
        return Trace(embeddings, outputs, attention, logits)

    def pool(self, x):
        """The vector that is classified: the class token."""
        return x[:, 0]

    def to_ours(self, state):
        blocks = enumerate(self.blocks)
        params = {
            **self.embeddings.to_ours(state),
            "encoder": {f"block_{i}": block.to_ours(state, f"blocks.{i}") for i, block in blocks},
            "head": layouts.linear(state, "head"),
        }
        return params if self.norm is None else params | {"norm": layouts.norm(state, "norm")}


class Embeddings(nn.Module):
    """Patches [b, n, d], a class token before them if there is one, and learned positions."""

    def __init__(self, project: nn.Module, patches: int, width: int, class_token: bool = True):
        super().__init__()
        self.project = project
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.positions = nn.Parameter(torch.empty(1, patches + class_token, width))

    def forward(self, images):
        x = self.project(images)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return x + self.positions

    def to_ours(self, state, name="embeddings"):
        params = {
            "patch_embed": self.project.to_ours(state, f"{name}.project"),
            "pos_embed": state[f"{name}.positions"],
        }
        if self.cls_token is not None:
            params["cls_token"] = state[f"{name}.cls_token"]
        return params


class StridedPatches(nn.Conv2d):
    """A convolution that steps from patch to patch: [b, c, h, w] -> [b, n, d]."""

    def __init__(self, channels: int, width: int, patch_size: int | tuple[int, int]):
        super().__init__(channels, width, patch_size, stride=patch_size)

    def forward(self, images):
        return super().forward(images).flatten(2).transpose(1, 2)

    def to_ours(self, state, name):
        return layouts.convolution(state, name)


class FlatPatches(nn.Linear):
    """Patches cut out, flattened and multiplied: [b, c, h, w] -> [b, n, d]."""

    def __init__(self, channels: int, width: int, patch_size: int):
        super().__init__(channels * patch_size**2, width)
        self.patch_size = patch_size

    def forward(self, images):
        patches = functional.unfold(images, self.patch_size, stride=self.patch_size)
        return super().forward(patches.transpose(1, 2))

    def to_ours(self, state, name):
        return layouts.flat_patches(state, name, (self.patch_size, self.patch_size))
