"""Classes and probabilities of images, by a saved model."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.data.source import DataError
from vit_jax.inference.images import Bad, Images, forward
from vit_jax.inference.saved import SavedModel


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model takes an image for."""

    file: str
    labels: tuple[int, ...] = ()
    """The classes with the largest probabilities, largest first; of equal ones the lower label."""
    classes: tuple[str, ...] = ()
    """Their names."""
    probabilities: tuple[float, ...] = ()
    """0..1, of all classes together 1."""
    error: str | None = None
    """Why there is no prediction."""


@dataclasses.dataclass(frozen=True)
class _Largest:
    """The outputs wanted: labels and probabilities of the `number` largest logits."""

    number: int

    def __call__(self, out: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # By logits: probabilities can be equal where those differ, and evaluations go by logits.
        logits = out["logits"].astype(jnp.float32)
        _, labels = jax.lax.top_k(logits, self.number)
        return labels, jnp.take_along_axis(jax.nn.softmax(logits), labels, axis=1)


def predict(
    saved: SavedModel, images: Images, top: int = 5, batch_size: int = 64
) -> Iterator[Prediction]:
    """The `top` most probable classes of each image, in order; all where there are fewer.

    >>> from vit_jax.inference.images import find_images
    >>> from vit_jax.inference.saved import open_model
    >>> for found in predict(open_model(run), find_images(["photos"])):  # doctest: +SKIP
    ...     print(found.file, found.classes[0], found.probabilities[0])

    Raises:
      DataError: the model tells no classes apart, `top` or `batch_size` is below 1, there are no
        images, or no file can hold what the model takes.
    """
    classes = number_of_classes(saved)
    if top < 1:
        raise DataError(f"top={top}: should be at least 1")
    names, outputs = saved.names, _Largest(min(top, classes))
    return _named(names, images, forward(saved, images, outputs, batch_size))


def number_of_classes(saved: SavedModel) -> int:
    """Of the model; raises a DataError where it has no class for an image as a whole."""
    model = saved.model
    if model.num_classes is None:
        raise DataError(
            f"{saved.source} has no head, so it tells no classes apart. Its features are had with: "
            f"vit-jax features {saved.source} IMAGES --out features.npz; how well they tell your "
            f"classes apart, with: vit-jax probe {saved.source} --data DATA"
        )
    if model.pool == "none":
        raise DataError(
            f"{saved.source} has pool='none', which gives every token logits of its own, and an "
            "image as a whole no class: choose another pool, and train its head"
        )
    return model.num_classes


def _named(names: tuple[str, ...], images: Images, results: Iterator[Any]) -> Iterator[Prediction]:
    for index, result in enumerate(results):
        file = images.name(index)
        if isinstance(result, Bad):
            yield Prediction(file, error=result.reason)
            continue
        labels, probabilities = (part.tolist() for part in result)
        classes = tuple(names[label] for label in labels)
        yield Prediction(file, tuple(labels), classes, tuple(probabilities))
