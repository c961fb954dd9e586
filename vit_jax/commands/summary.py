"""`vit-jax summary`."""

from pathlib import Path

from vit_jax import ViT
from vit_jax.config import ConfigError, load_config


def summary(
    model: str, /, image_size: int | tuple[int, int] | None = None, channels: int | None = None
) -> int:
    """Print a model's parameters, floating-point operations and shapes.

    Args:
      model: a config file, a run folder, weights in any published layout, or a published size such
        as B/16.
      image_size: pixels on a side, or height and width. Default: the model's; 224 for a size.
      channels: channels of an image. Default: the model's, else 3.
    """
    import jax

    from vit_jax.models import abstract_params, forward_flops, parameter_count

    architecture = _architecture(model)
    size = image_size or architecture.image_size
    channels = channels or architecture.channels or 3
    if size is None:
        raise ConfigError(f"{model} leaves the image size to its data: add --image_size=PIXELS")
    architecture = architecture.clone(image_size=None, channels=None)
    parameters = abstract_params(architecture, size, channels)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        print(f"{jax.tree_util.keystr(keys, simple=True, separator='/'):<44}{leaf.shape}")
    print(f"parameters         {parameter_count(architecture, size, channels):,}")
    flops = forward_flops(architecture, size, channels)
    print(f"FLOPs per image    {flops / 1e9:,.3f} G forward, {3 * flops / 1e9:,.3f} G training")
    return 0


def _architecture(model: str) -> ViT:
    """The model of a config file, a run folder, weights, or a published size."""
    from vit_jax.models import vit
    from vit_jax.runs.folder import is_run_folder
    from vit_jax.train.start import open_start
    from vit_jax.weights import open_pretrained

    path = Path(model).expanduser()
    if path.suffix in (".py", ".json"):
        config = load_config(path)
        start = open_start(config)
        return start.config.model if start else config.model
    if is_run_folder(path):
        return load_config(path / "config.json").model
    if path.exists() or model.startswith("hf-hub:"):
        return open_pretrained(model).model.clone()
    try:
        return vit(model).clone(image_size=224)
    except ValueError as error:
        raise ConfigError(f"{model}: there is no such file; as a size, {error}") from error
