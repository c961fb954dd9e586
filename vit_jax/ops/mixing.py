"""mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899): images mixed with a neighbour's.

The partner of an example is the other one of its pair, at the place XOR 1 of the batch. Batches are
shuffled already, so it is as good as any; and no pixel has to leave its device, as long as each
device holds whole pairs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from vit_jax.ops.erasing import rectangles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixed:
    """A batch of mixed images; the target is `weight` on `labels`, the rest on the partners'."""

    # Arrays, or what jax puts in their place: shapes, shardings, tracers.
    images: Any
    """float [b, h, w, c]."""
    labels: Any
    """int [b], the examples' own."""
    partner_labels: Any
    """int [b]."""
    weight: Any
    """float32 [b], share of the example's own label, 0..1; 1: not mixed."""


def mix(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w c"],
    labels: Int[Array, "b"],
    mask: Float[Array, "b"],
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    probability: float = 1.0,
    switch: float = 0.5,
    active: bool | Bool[Array, ""] = True,
) -> Mixed:
    """Mix each image with its partner's by mixup or by CutMix, each example with its own key.

    An example whose partner is padding is left as it is.

    Args:
      mask: 0 for padding.
      mixup: alpha of the Beta(alpha, alpha) that mixup's weight is drawn from; 0: no mixup.
      cutmix: alpha of CutMix; 0: no CutMix.
      probability: of being mixed at all.
      switch: probability that it is CutMix that mixes, where both alphas are above 0.
      active: false leaves all images as they are; may be traced.

    Raises:
      ValueError: the number of images is odd.
    """
    batch, height, width, channels = images.shape
    if batch % 2:
        raise ValueError(
            "mixup and CutMix mix the two examples of a pair, so a batch, or under pmap each "
            f"device's share of it, must be even: it holds {batch}"
        )
    if not (mixup or cutmix):
        return Mixed(images, labels, _partners(labels), jnp.ones(batch))
    draws = jax.vmap(lambda key: jax.random.uniform(key, (6,)))(keys)
    mixes = active & (draws[:, 0] < probability) & (_partners(mask) > 0)
    cuts = mixes & (draws[:, 1] < (switch if mixup and cutmix else float(cutmix > 0)))
    # Each example does one of the two, so both may use the same draws.
    blends, keeps = (
        symmetric_beta(draws[:, 2], draws[:, 3], alpha) if alpha else jnp.ones(batch)
        for alpha in (mixup, cutmix)
    )
    own = jnp.where(mixes & ~cuts, blends, 1)
    low, high = cut_box(jnp.where(cuts, keeps, 1), draws[:, 4:], (height, width))
    inside = rectangles(low, high, (height, width, channels))
    share = jnp.where(inside, 0, own[:, None, None])
    pixels = images.reshape(inside.shape)
    mixed = share * pixels + (1 - share) * _partners(pixels)
    left = (height * width - (high - low).prod(axis=1)) / (height * width)
    return Mixed(
        images=mixed.reshape(images.shape),
        labels=labels,
        partner_labels=_partners(labels),
        weight=jnp.where(cuts, left, own),
    )


def symmetric_beta(u: Float[Array, "b"], v: Float[Array, "b"], alpha: float) -> Float[Array, "b"]:
    """Beta(alpha, alpha) from two uniform numbers, exactly and without rejection, for any alpha.

    Bailey's t = sqrt(2 alpha (1 / p - 1)) cos(2 pi v), with p = u^(1 / alpha), is Student's t with
    2 alpha degrees of freedom, and 1/2 + t / (2 sqrt(2 alpha + t^2)) is the beta (Devroye, Random
    variate generation in one line of code, 1996); here multiplied out, so that p may be 0.
    """
    power = u ** (1 / alpha)
    cosine = jnp.cos(2 * jnp.pi * v)
    below = power + (1 - power) * cosine**2
    tiny = jnp.finfo(jnp.float32).tiny  # should p and a device's cosine both be 0
    beta = 0.5 + 0.5 * cosine * jnp.sqrt((1 - power) / jnp.maximum(below, tiny))
    return jnp.clip(beta, 0, 1)  # rounding may end a little outside


def cut_box(
    own: Float[Array, "b"], centre: Float[Array, "b 2"], size: tuple[int, int]
) -> tuple[Int[Array, "b 2"], Int[Array, "b 2"]]:
    """CutMix's box, of the image's shape, rounded down to whole pixels and cut off at the border.

    Args:
      own: share of the image that is to stay, 1: no box; more stays where the box is cut off.
      centre: uniform in 0..1.
      size: h, w.

    Returns:
      row and column of the first pixel of the box, and of the first after it.
    """
    sides = jnp.floor(jnp.sqrt(1 - own)[:, None] * jnp.array(size)).astype(jnp.int32)
    low = jnp.floor(centre * jnp.array(size)).astype(jnp.int32) - sides // 2
    low, high = (jnp.clip(corner, 0, jnp.array(size)) for corner in (low, low + sides))
    return low, high


def _partners(x: Shaped[Array, "b *rest"]) -> Shaped[Array, "b *rest"]:
    """What the other one of each pair has."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
