"""`vit-jax evaluate`."""

from vit_jax.commands.data import where as data_at
from vit_jax.ops.test_time import TestTime
from vit_jax.weights.run_folder import Which


def evaluate(
    model: str,
    /,
    data: str | None = None,
    split: str | None = None,
    checkpoint: Which | int = "latest",
    test_time: TestTime = "none",
) -> int:
    """Evaluate a model on a split, every image once.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      data: a data set such as cifar10, or a folder of images. Default: the data of the run.
      split: a split or slice, such as "val" or "train[:10%]". Default: the test split.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      test_time: average the logits of each image and its mirror image, or of shifts of both too.
    """
    from vit_jax.inference.evaluate import evaluate_saved

    where = None if data is None else data_at(data)
    label, result = evaluate_saved(model, where, split, checkpoint, test_time)
    print(f"{label}: {result.in_words()}")
    return 0
