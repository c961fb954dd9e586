"""`vit-jax features`."""

import sys
from pathlib import Path

from vit_jax.commands.predict import check_out, closing_words, say_bad
from vit_jax.weights.run_folder import Which


def features(
    model: str,
    images: list[str],
    /,
    out: Path,
    tokens: bool = False,
    checkpoint: Which | int = "latest",
    batch_size: int = 64,
) -> int:
    """Write what a model makes of images, before its head, to an .npz file.

    Arrays: pooled [n, d], files [n], the n images that could be read in the order given, and bad,
    the others. Exits with 1, and writes nothing, if there is none that could be read.

    Args:
      model: a run folder, weights in any published layout, or hf-hub:USER/REPO.
      images: files, folders (all files below them), quoted patterns such as 'photos/**/*.jpg', or -
        for names on stdin, one a line.
      out: the new file to write, .npz.
      tokens: write tokens [n, t, d] too: class token, registers, patches row by row.
      checkpoint: of a run: latest, best (by held-out accuracy), or a step.
      batch_size: images computed at a time.
    """
    check_out(out, (".npz",))
    from vit_jax.data.source import DataError
    from vit_jax.inference.features import features_of, save_features, tokens_size
    from vit_jax.inference.images import find_images
    from vit_jax.inference.saved import open_model

    files = find_images(images)
    saved = open_model(model, checkpoint)
    size = tokens_size(saved, len(files)) if tokens else 0
    if size > 1e9:
        print(f"The tokens of {len(files):,} images take {size / 1e9:.1f} GB", file=sys.stderr)
    found = features_of(saved, files, tokens, batch_size)
    for name, reason in found.bad.items():
        say_bad(name, reason)
    if found.files:
        try:
            save_features(found, out)
        except OSError as error:
            raise DataError(f"--out {out}: cannot be written ({error.strerror})") from error
        shapes = [f"pooled {list(found.pooled.shape)}"]
        shapes += [] if found.tokens is None else [f"tokens {list(found.tokens.shape)}"]
        print(f"{', '.join(shapes)}: {out}")
    return closing_words(len(files), len(files) - len(found.files))
