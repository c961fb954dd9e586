"""Data sets by name."""

from vit_jax.data.source import ArraySource, DataConfig, DataError, digest, parse_split


def open_source(config: DataConfig, split: str) -> ArraySource:
    """One split, such as `config.train_split`, of the data set the config names.

    Raises:
      DataError: there is no such data set, split or slice, or its files cannot be had.
    """
    name, bounds = parse_split(split)
    if config.name == "digits":
        from vit_jax.data.digits import digits

        whole = digits(name)
    elif config.name in ("cifar10", "cifar100") or config.name.startswith("tfds:"):
        from vit_jax.data.tfds_source import tfds_arrays

        whole = tfds_arrays(config.name.removeprefix("tfds:"), name, config.root)
    else:
        raise DataError(
            f"data.name={config.name!r} is no known data set: use digits, cifar10, cifar100, or "
            "tfds:NAME for any TFDS set with image and label"
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
