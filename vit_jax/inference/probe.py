"""How well a model's features tell classes apart, without training it: k-NN and a linear probe.

Axes: n training images, m test images, d features, c classes.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vit_jax.data.catalog import AnySource, open_splits
from vit_jax.data.source import DataConfig, DataError
from vit_jax.data.splits import hold_out
from vit_jax.inference.evaluate import check_depth, data_for
from vit_jax.inference.features import features_of
from vit_jax.inference.saved import SavedModel, open_model
from vit_jax.ops.losses import cross_entropy
from vit_jax.train.fill_in import input_shape
from vit_jax.weights.run_folder import Which

SIZED = ("digits", "cifar10", "cifar100", "arrays")
"""Sets in memory: images have a size of their own, and are resized on the devices if they must."""
TEMPERATURE = 0.07
STRENGTHS = tuple(10.0**power for power in range(1, -7, -1))
"""L2 strengths tried, strongest first."""
HELD_OUT = 0.2
"""Share of the training images on which the strength is chosen."""
STEPS, TOLERANCE = 1000, 1e-5
"""Most steps of L-BFGS, and the largest gradient at which it has arrived."""
LARGEST = 2**26
"""Similarities computed at a time."""

Linear = dict[str, Array]
"""kernel [d, c] and bias [c], of standardised features."""


@dataclasses.dataclass(frozen=True)
class Probed:
    """The results of both probes."""

    label: str
    """What was probed, and on what."""
    width: int
    """Features of an image."""
    train_images: int
    test_images: int
    knn_accuracy: float
    """Share of the test images, 0..1."""
    k: int
    linear_accuracy: float
    """Share of the test images, 0..1."""
    l2: float
    """Strength that was chosen."""
    bad: dict[str, str]
    """Images left out, by name, and why they could not be read."""


def probe_saved(
    source: str | os.PathLike[str],
    data: DataConfig | None = None,
    k: int = 20,
    checkpoint: Which | int = "latest",
    batch_size: int = 64,
) -> Probed:
    """Train nothing but a k-NN and a linear classifier on a model's features, and test both.

    Args:
      source: a run folder, or weights as `load_pretrained` takes them; its head is not used.
      data: on what; None: the data of the run. Tested on the test split, else on the held-out one.
      k: neighbours that vote.

    Raises:
      RunError, WeightsError, DataError: there is no such model or data, or they do not fit.
    """
    if k < 1:
        raise DataError(f"k={k}: should be at least 1")
    saved = open_model(source, checkpoint)
    config = data_for(saved, data)
    if config.name in SIZED:
        config = dataclasses.replace(config, image_size=None)
    opened = open_splits(config)
    use = "test" if "test" in opened else "eval"
    if use not in opened:
        raise DataError(f"{config.name} has no test split and no held-out split to test on")
    classes = len(opened["train"].class_names)
    size, taken = opened["train"].image_shape[:2], input_shape(saved.model)[:2]
    if size != taken:
        print(f"NOTE: images of {size[0]}x{size[1]} pixels are resized to {taken[0]}x{taken[1]}")
    train, train_labels, bad = _features(saved, opened["train"], batch_size)
    test, test_labels, bad_too = _features(saved, opened[use], batch_size)
    k = min(k, len(train))
    neighbours = knn(train, train_labels, test, classes, k)
    l2 = choose_strength(train, train_labels, classes)
    scale = standardisation(train)
    linear = fit_linear(standardised(train, scale), train_labels, classes, l2)
    predicted = linear_logits(linear, standardised(test, scale)).argmax(axis=1)
    return Probed(
        label=f"{saved.label}, {config.name if config.root is None else config.root}, {use}",
        width=train.shape[1],
        train_images=len(train),
        test_images=len(test),
        knn_accuracy=float((np.asarray(neighbours) == test_labels).mean()),
        k=k,
        linear_accuracy=float((np.asarray(predicted) == test_labels).mean()),
        l2=l2,
        bad=bad | bad_too,
    )


def _features(
    saved: SavedModel, images: AnySource, batch_size: int
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Features [n, d] and labels [n] of a split, and the images that could not be read."""
    check_depth(saved, images)
    found = features_of(saved, images, batch_size=batch_size)
    if not found.files:
        raise DataError(f"none of {len(images):,} images could be read: {next(iter(found.bad))}")
    return found.pooled, images.labels[found.indices], found.bad


def knn(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    test: Float[np.ndarray, "m d"],
    classes: int,
    k: int,
) -> Int[np.ndarray, "m"]:
    """The class with the most votes of the `k` nearest training images, of equal ones the lower.

    Near is by cosine similarity s, and a vote has the weight exp(s / 0.07), as for DINO (arXiv
    2104.14294, appendix; the weights are those of arXiv 1805.01978, section 3.4).
    """
    rows = max(1, min(len(test), LARGEST // len(train)))
    known, known_labels = jnp.asarray(unit_length(train)), jnp.asarray(labels)
    parts = [
        _vote(known, known_labels, jnp.asarray(unit_length(part)), classes, k)
        for part in np.split(test, range(rows, len(test), rows))
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def unit_length(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Each vector divided by its length; zero stays zero."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)


@functools.partial(jax.jit, static_argnames=("classes", "k"))
def _vote(
    train: Float[Array, "n d"],
    labels: Int[Array, "n"],
    test: Float[Array, "m d"],
    classes: int,
    k: int,
) -> Int[Array, "m"]:
    # On accelerators products are otherwise rounded to few bits, and neighbours are close.
    similarity = jnp.matmul(test, train.T, precision="highest")
    # Used whole: a slice of the result would make XLA sort whole rows, 30 times as long on a CPU.
    nearest, places = jax.lax.top_k(similarity, k)
    weights = jnp.exp(nearest / TEMPERATURE)
    votes = jnp.zeros((len(test), classes))
    return votes.at[jnp.arange(len(test))[:, None], labels[places]].add(weights).argmax(axis=1)


def standardisation(features: Float[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and standard deviation [d]; 1 for a feature that is always the same."""
    std = features.std(axis=0, dtype=np.float64)
    return features.mean(axis=0, dtype=np.float64), np.where(std > 0, std, 1)


def standardised(
    features: Float[np.ndarray, "n d"], scale: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, "n d"]:
    mean, std = scale
    return ((features - mean) / std).astype(np.float32)


def choose_strength(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], classes: int
) -> float:
    """The L2 strength with the best accuracy on a fifth of the training images, held out.

    Of equally good ones that with the lower cross-entropy. Where no class has two images there is
    nothing to choose by, and it is the middle one.
    """
    kept, held = hold_out(labels, HELD_OUT, seed=0)
    if not len(held):
        return STRENGTHS[len(STRENGTHS) // 2]
    scale = standardisation(features[kept])
    train, test = (standardised(features[rows], scale) for rows in (kept, held))
    scores, linear = {}, None
    for l2 in STRENGTHS:
        linear = fit_linear(train, labels[kept], classes, l2, start=linear)
        logits = linear_logits(linear, test)
        accuracy = float((logits.argmax(axis=1) == labels[held]).mean())
        scores[l2] = accuracy, -float(cross_entropy(logits, jnp.asarray(labels[held])).mean())
    return max(scores, key=lambda l2: scores[l2])


def fit_linear(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    classes: int,
    l2: float,
    start: Linear | None = None,
) -> Linear:
    """Logistic regression: the least mean cross-entropy + l2 / 2 * sum of the kernel's squares.

    The objective of scikit-learn's LogisticRegression with C = 1 / (n * l2), by L-BFGS.

    Args:
      features: standardised.
      start: where to begin; the result does not depend on it.
    """
    if start is None:
        start = {"kernel": jnp.zeros((features.shape[1], classes)), "bias": jnp.zeros(classes)}
    return _minimise(start, jnp.asarray(features), jnp.asarray(labels), l2)


def linear_logits(linear: Linear, features: Float[np.ndarray, "n d"]) -> Float[Array, "n c"]:
    return _logits(linear, jnp.asarray(features))


def _logits(linear: Linear, features: Float[Array, "n d"]) -> Float[Array, "n c"]:
    return jnp.matmul(features, linear["kernel"], precision="highest") + linear["bias"]


@jax.jit
def _minimise(
    start: Linear, features: Float[Array, "n d"], labels: Int[Array, "n"], l2: float | Array
) -> Linear:
    def loss(linear: Linear) -> Array:
        penalty = 0.5 * l2 * jnp.sum(linear["kernel"] ** 2)
        return cross_entropy(_logits(linear, features), labels).mean() + penalty

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry):
        linear, state, count, _ = carry
        value, gradient = value_and_gradient(linear, state=state)
        largest = jnp.stack([abs(part).max() for part in jax.tree.leaves(gradient)]).max()
        updates, state = solver.update(
            gradient, state, linear, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(linear, updates), state, count + 1, largest

    def goes_on(carry):
        _, _, count, largest = carry
        return (count < STEPS) & (largest > TOLERANCE)

    return jax.lax.while_loop(goes_on, step, (start, solver.init(start), 0, jnp.inf))[0]
