"""Make the parameters of one architecture fit another image size, patch size, channels or head.

Trees are flat here: {"encoder/block_0/norm1/scale": array}.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models import ViT, initializers
from vit_jax.models.patches import grid_size, pair
from vit_jax.ops.resample import Interpolation, resample_patch_kernel, resample_positions
from vit_jax.weights.files import WeightsError
from vit_jax.weights.layout import Params


def adapt(
    params: Params,
    have: ViT,
    want: ViT,
    interpolation: Interpolation,
    new_head: bool = False,
    seed: int = 0,
) -> tuple[Params, list[str], bool]:
    """The parameters of `have` as `want` needs them; both declare image size and channels.

    Args:
      interpolation: how the table of learned positions is resampled to another grid.
      new_head: a new head even where the number of classes is the same.
      seed: of a new head's initial values, where `want.head_zero_init` is off.

    Returns:
      the parameters, one line on each step taken, and whether the head is new.
    """
    params, steps = dict(params), []
    kernel = np.asarray(params["patch_embed/kernel"])
    old, new = (pair(model.patch_kernel_size or model.patch_size) for model in (have, want))
    _check_shifted(have, want, old != new)
    if want.channels != have.channels and want.channels:
        kernel = resize_channels(kernel, want.channels)
        steps.append(f"patch_embed: {have.channels} channels made {want.channels}")
    if old != new:
        # FlexiViT, which is trained so, resizes both by straight lines; other models as timm does.
        flexible = interpolation == "linear" or have.patch_kernel_size is not None
        resize = "linear" if flexible else "bicubic_antialias"
        kernel = resample_patch_kernel(kernel, new, resize)
        steps.append(
            f"patch_embed: patches of {_by(old)} pixels resized to {_by(new)}, by pseudo-inverse"
        )
    params["patch_embed/kernel"] = kernel
    steps += _adapt_positions(params, have, want, interpolation)

    if want.representation is None and "representation/kernel" in params:
        del params["representation/kernel"], params["representation/bias"]
        steps.append("representation: dropped")
    changed = want.representation != have.representation
    fresh = want.num_classes is not None and (
        new_head or changed or want.num_classes != have.num_classes
    )
    if fresh or want.num_classes is None:
        params.pop("head/kernel", None)
        params.pop("head/bias", None)
    if fresh and want.num_classes:
        features = want.representation or want.width
        params |= _new_head(want, features, want.num_classes, seed)
        was = f"instead of {have.num_classes}" if have.num_classes else "the file has none"
        steps.append(f"head: initialised anew for {_classes(want.num_classes)} ({was}); train it")
    elif want.num_classes is None and have.num_classes is not None:
        steps.append("head: dropped")
    return params, steps, fresh


def _check_shifted(have: ViT, want: ViT, resized: bool) -> None:
    """Raise a WeightsError where shifted patches change: their norm has an entry per number."""
    if want.shifted_patches != have.shifted_patches:
        raise WeightsError(
            f"shifted_patches={want.shifted_patches} was asked for, and the weights were trained "
            f"with shifted_patches={have.shifted_patches}: leave it as it is"
        )
    if have.shifted_patches and (resized or (want.channels or have.channels) != have.channels):
        raise WeightsError(
            "shifted_patches=True: these weights take patches of "
            f"{_by(have.patch_kernel_size or have.patch_size)} pixels and {have.channels} channels "
            "alone; leave both as they are"
        )


def _adapt_positions(
    params: Params, have: ViT, want: ViT, interpolation: Interpolation
) -> list[str]:
    """Resample the table in `params` where the grid is another; a line if it did."""
    assert have.image_size is not None
    assert want.image_size is not None
    old = grid_size(have.image_size, have.patch_size)
    new = grid_size(want.image_size, want.patch_size)
    if old == new or "pos_embed" not in params:
        return []
    first = int(have.has_class_token and have.class_position)
    table = np.asarray(params["pos_embed"][0])
    grid = resample_positions(table[first:].reshape(*old, -1), new, interpolation)
    params["pos_embed"] = np.concatenate([table[:first], grid.reshape(-1, grid.shape[-1])])[None]
    return [f"pos_embed: resampled from {_by(old)} to {_by(new)} patches, {interpolation}"]


def resize_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """[ph, pw, c, d] -> [ph, pw, channels, d].

    One channel takes the sum: a grey image then gives what its copies in all channels gave. Several
    repeat the old ones in turn, scaled by c / channels so that tokens keep their size, as timm has
    it.
    """
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % old] * np.float32(old / channels)


def resize_statistics(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Mean or standard deviation per channel, for another number of channels."""
    if len(values) == channels:
        return values
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


def _new_head(model: ViT, features: int, classes: int, seed: int) -> Params:
    init = initializers.head_kernel(model.init_scheme, model.head_zero_init)
    kernel = init(jax.random.key(seed), (features, classes), jnp.float32)
    return {"head/kernel": np.asarray(kernel), "head/bias": np.zeros(classes, np.float32)}


def _by(size: int | tuple[int, int]) -> str:
    rows, columns = pair(size)
    return f"{rows}x{columns}"


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"
