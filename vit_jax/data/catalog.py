"""Data sets by name."""

from vit_jax.data.source import (
    ArraySource,
    DataConfig,
    DataError,
    declared_size,
    digest,
    parse_split,
)


def open_source(config: DataConfig, split: str) -> ArraySource:
    """One split, such as `config.train_split`, of the data set the config names.

    Raises:
      DataError: there is no such data set, split or slice, its files cannot be had, or its images
        are not of `config.image_size`.
    """
    name, bounds = parse_split(split)
    whole = _open_whole(config, name)
    size, (height, width) = declared_size(config), whole.images.shape[1:3]
    if size not in (None, (height, width)):
        raise DataError(
            f"data.image_size={config.image_size}, but the images of {config.name} are "
            f"{height}x{width} pixels: leave it out, only those of data.name='folder' are resized"
        )
    start = bounds[0].resolve(len(whole), default=0)
    stop = bounds[1].resolve(len(whole), default=len(whole))
    if start >= stop:
        raise DataError(f"split {split!r} is empty: {name!r} has {len(whole)} images")
    return ArraySource(
        whole.images[start:stop],
        whole.labels[start:stop],
        whole.class_names,
        fingerprint=digest(whole.fingerprint, start, stop),
    )


def _open_whole(config: DataConfig, split: str) -> ArraySource:
    """A split, by its name alone, of the data set the config names."""
    if config.name == "digits":
        from vit_jax.data.digits import digits

        return digits(split)
    if config.name == "folder":
        from vit_jax.data.folder import folder_arrays

        return folder_arrays(config, split)
    if config.name in ("cifar10", "cifar100") or config.name.startswith("tfds:"):
        from vit_jax.data.tfds_source import tfds_arrays

        return tfds_arrays(config.name.removeprefix("tfds:"), split, config.root)
    raise DataError(
        f"data.name={config.name!r} is no known data set: use digits, cifar10, cifar100, tfds:NAME "
        "for any TFDS set with image and label, or folder for images in folders"
    )
