"""How far our numbers are from those of a PyTorch reference: one method for each quantity.

A difference is relative to the largest magnitude in the reference's array. Computed on the same
images, labels and parameters, in float32, by ours compiled as a user would compile it.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
import torch
from parity.references import make_reference
from parity.skeleton import Reference, Trace

from vit_jax import Block, ViT
from vit_jax.ops.losses import cross_entropy
from vit_jax.optim import OptimConfig, make_optimizer, make_schedule

Differences = dict[str, float]

BATCH_SIZE, STEPS = 4, 3
LABEL_SMOOTHING = 0.1
FORWARD = ("embeddings", "block outputs", "attention weights", "logits")

# adamw divides a gradient by its own size plus eps, which makes full steps of gradients that are
# zero but for rounding, in a direction of chance; a key bias's are (see `key_bias_gradients`). With
# an eps between the rounding and the other gradients it does not, here and in PyTorch. PyTorch
# decays all parameters, so ours do. The rates move each of them far beyond the bounds.
ADAMW = OptimConfig(
    name="adamw",
    learning_rate=1e-3,
    schedule="constant",
    weight_decay=0.4,
    decay="all",
    b2=0.95,  # three steps with 0.999 are nearly those of any other number near 1
    eps=1e-2,
)
SGD = OptimConfig(
    name="sgd", learning_rate=1e-2, schedule="constant", weight_decay=0.03, decay="all"
)
OPTIMISERS = {
    "AdamW": ADAMW,
    "AdamW, clipped": dataclasses.replace(ADAMW, clip_norm=1.0),
    "SGD": SGD,
    "SGD, clipped": dataclasses.replace(SGD, learning_rate=0.1, weight_decay=3e-3, clip_norm=1.0),
}

BOUNDS = {
    **dict.fromkeys(FORWARD, 1e-5),
    "gradients": 1e-4,
    **dict.fromkeys(OPTIMISERS, 1e-5),
}
"""The largest relative difference that is allowed, by quantity."""


class Comparison:
    """Our model and a reference of `references.REFERENCES`, on the same images and labels."""

    def __init__(self, name: str):
        self.name = name
        reference = make_reference(name)
        self.model, self.params = reference.ours, our_parameters(reference)
        rng = np.random.default_rng(0)
        classes = self.model.num_classes
        self.batches = [
            (
                rng.normal(size=(BATCH_SIZE, *reference.image)).astype(np.float32),
                rng.integers(0, classes, BATCH_SIZE, dtype=np.int32),
            )
            for _ in range(STEPS)
        ]

    def forward(self) -> dict[str, Differences]:
        """Differences of embeddings, of each block's output and attention weights, of logits."""
        images, _ = self.batches[0]
        ours = jax.jit(functools.partial(our_trace, self.model))(self.params, images)
        with torch.no_grad():
            theirs = make_reference(self.name).trace(to_torch(images))
        return {
            quantity: {
                f"{quantity} {i}": relative_difference(a, b)
                for i, (a, b) in enumerate(zip(as_list(a), as_list(b), strict=True))
            }
            for quantity, a, b in zip(FORWARD, ours, theirs, strict=True)
        }

    def gradients(self) -> Differences:
        """Differences of the loss's gradient, for each parameter, q, k and v by themselves."""
        ours, theirs = self._both_gradients
        # A key bias's gradient is zero, so its rounding is measured by that of the query bias.
        return {
            name: relative_difference(
                ours[name], theirs[name], scale=theirs[name.replace("key/bias", "query/bias")]
            )
            for name in theirs
        }

    def key_bias_gradients(self) -> dict[str, tuple[float, float]]:
        """Gradients of key biases, ours and theirs, relative to those of the query biases.

        Both are zero but for rounding: what a bias adds to all keys changes all logits of a query
        by the same number, which softmax does not see.
        """
        ours, theirs = self._both_gradients
        return {
            name: tuple(
                float(np.abs(gradient[name]).max() / np.abs(gradient[query]).max())
                for gradient in (ours, theirs)
            )
            for name in theirs
            if (query := name.replace("key/bias", "query/bias")) != name
        }

    def steps(self, optimiser: str) -> tuple[Differences, Differences]:
        """Parameters after three updates on three batches, by `OPTIMISERS`.

        Returns:
          differences from PyTorch's, and how far PyTorch's have moved; both relative to the largest
          magnitude of the parameter.
        """
        config = OPTIMISERS[optimiser]
        reference = make_reference(self.name)
        train(reference, config, self.batches)
        start, theirs = named(self.params), named(our_parameters(reference))
        ours = named(self._train(config))
        assert ours.keys() == theirs.keys() == start.keys()
        differences = {name: relative_difference(ours[name], theirs[name]) for name in theirs}
        moved = {name: relative_difference(start[name], theirs[name]) for name in theirs}
        return differences, moved

    @functools.cached_property
    def _both_gradients(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        images, labels = self.batches[0]
        reference = make_reference(self.name)
        their_loss(reference, images, labels).backward()
        theirs = {name: p.grad.numpy() for name, p in reference.named_parameters()}
        ours = named(self._gradient(self.params, images, labels))
        theirs = named(reference.to_ours(theirs))
        assert ours.keys() == theirs.keys()
        return ours, theirs

    @functools.cached_property
    def _gradient(self):
        def loss(params, images, labels):
            logits = self.model.apply({"params": params}, images, train=True)
            return cross_entropy(logits, labels, LABEL_SMOOTHING).mean()

        return jax.jit(jax.grad(loss))

    def _train(self, config: OptimConfig) -> dict:
        optimizer = make_optimizer(config, make_schedule(config, STEPS, steps_per_epoch=STEPS))

        def update(params, opt_state, gradient):
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        # Element by element there is little to optimise, and compiling is what takes time here.
        update = jax.jit(update, compiler_options={"xla_backend_optimization_level": 0})
        params = self.params
        opt_state = jax.jit(optimizer.init)(params)
        for images, labels in self.batches:
            params, opt_state = update(params, opt_state, self._gradient(params, images, labels))
        return params


def our_trace(model: ViT, params: dict, images: jax.Array) -> Trace:
    """What our model computes on its way; the tokens are those of the model without blocks."""
    blockless = dataclasses.replace(
        model,
        depth=0,
        class_token=model.has_class_token,
        final_norm="none",
        pool="none",
        num_classes=None,
    )
    logits, seen = model.apply(
        {"params": params},
        images,
        capture_intermediates=lambda module, _: isinstance(module, Block),
        mutable="intermediates",
    )
    blocks = [seen["intermediates"]["encoder"][f"block_{i}"] for i in range(model.depth)]
    outputs = [output for block in blocks for output in block["__call__"]]
    attention = [weights for block in blocks for weights in block["attn"]["attention"]]
    return Trace(blockless.apply({"params": params}, images), outputs, attention, logits)


def train(reference: Reference, config: OptimConfig, batches: list) -> None:
    """One update of a PyTorch model for each batch, as `config` says."""
    parameters = list(reference.parameters())
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "adamw":
        betas = (config.b1, config.b2)
        optimizer = torch.optim.AdamW(parameters, betas=betas, eps=config.eps, **common)
    else:
        optimizer = torch.optim.SGD(parameters, momentum=config.momentum, **common)
    for images, labels in batches:
        optimizer.zero_grad()
        their_loss(reference, images, labels).backward()
        if config.clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            assert norm > 2 * config.clip_norm, f"a gradient of norm {norm} is hardly clipped"
        optimizer.step()


def their_loss(reference: Reference, images: np.ndarray, labels: np.ndarray) -> torch.Tensor:
    loss = torch.nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    return loss(reference(to_torch(images)), torch.tensor(labels, dtype=torch.int64))


def our_parameters(reference: Reference) -> dict:
    return reference.to_ours({name: x.numpy().copy() for name, x in reference.state_dict().items()})


def to_torch(images: np.ndarray) -> torch.Tensor:
    """[b, h, w, c] -> [b, c, h, w]."""
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous()


def named(params: Any) -> dict[str, np.ndarray]:
    """Parameters by their path; q, k and v, which are one array, by themselves.

    Together, an array with the gradients of the query biases would hide those of the key biases.
    """
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = ("query", "key", "value") if "/qkv/" in name else ("qkv",)
        for part, array in zip(parts, np.split(np.asarray(leaf), len(parts), axis=-1), strict=True):
            flat[name.replace("qkv", part)] = array
    return flat


def relative_difference(ours: Any, theirs: Any, scale: Any = None) -> float:
    """max |ours - theirs| / max |scale|; without a scale, that of theirs."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"ours is {ours.shape}, theirs {theirs.shape}"
    scale = theirs if scale is None else scale
    return float(np.abs(ours - theirs).max() / np.abs(scale).max())


def as_list(x: Any) -> list:
    return x if isinstance(x, list) else [x]
