"""`vit-jax probe`."""

from vit_jax.commands.data import where as data_at
from vit_jax.commands.predict import say_bad
from vit_jax.weights.run_folder import Which


def probe(
    model: str,
    /,
    data: str | None = None,
    k: int = 20,
    checkpoint: Which | int = "latest",
    batch_size: int = 64,
) -> int:
    """Measure how well a model's features tell classes apart, without training the model.

    Two classifiers are made from the features of the training images and tested on the test images:
    the k nearest neighbours by cosine similarity, and a logistic regression. The model's own head
    is not used.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      data: a data set such as cifar10, or a folder of images. Default: the data of the run.
      k: how many neighbours vote.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      batch_size: images computed at a time.
    """
    from vit_jax.inference.probe import probe_saved

    where = None if data is None else data_at(data)
    found = probe_saved(model, where, k, checkpoint, batch_size)
    for name, reason in found.bad.items():
        say_bad(name, reason)
    print(
        f"{found.label}: {found.width} features of {found.train_images:,} training images, tested "
        f"on {found.test_images:,}"
    )
    print(f"k-NN          accuracy {found.knn_accuracy:.2%}, k={found.k}, by cosine similarity")
    print(
        f"linear probe  accuracy {found.linear_accuracy:.2%}, L2 {found.l2:g}, chosen on held-out "
        "training images"
    )
    return 0
