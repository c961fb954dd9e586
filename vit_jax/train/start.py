"""What a training starts from where the config names pretrained weights."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.config import Config, ConfigError, fields_of, from_json, load_config
from vit_jax.models import ViT
from vit_jax.runs.folder import is_run_folder
from vit_jax.train.state import Params
from vit_jax.weights import WeightsError
from vit_jax.weights.layout import Preprocessing
from vit_jax.weights.pretrained import Pretrained, open_pretrained
from vit_jax.weights.trees import nested


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that are open but not read, and the config that takes their architecture."""

    config: Config
    pixels: Preprocessing
    """Of the images the weights know."""
    found: Pretrained | None
    """None: the run goes on, its weights are in a checkpoint."""
    overrides: tuple[str, ...]
    """The fields of the config's model that stand above the weights', a line each."""

    def read(
        self, config: Config, class_names: tuple[str, ...]
    ) -> tuple[Params | None, tuple[str, ...]]:
        """The parameters to start from, and a line on all that was done to make them fit.

        Args:
          config: with model and data filled in.
          class_names: of the data. A head for other classes is made anew.

        Raises:
          WeightsError: the weights do not fit the model; names what the config sets.
        """
        if self.found is None:
            return None, ()
        known = self.found.preprocessing.class_names
        try:
            params, steps, fresh = self.found.load(
                config.model,
                new_head=known is not None and known != class_names,
                seed=config.seed,
            )
        except WeightsError as error:
            sets = f" (the config sets {'; '.join(self.overrides)})" if self.overrides else ""
            raise WeightsError(f"pretrained: {error}{sets}") from error
        if known is None and not fresh:
            steps.append(
                f"head: kept for {len(class_names)} classes; the file does not say which they are"
            )
        return nested(params), (*self.overrides, *steps)


def open_start(
    config: Config, overridden: Sequence[str] = (), stored: Config | None = None
) -> Start | None:
    """Open `config.pretrained`; None where the config names none.

    The architecture is the weights', under the fields of `config.model` that are overridden or not
    at their default. Image size, channels and classes of the model follow from the data, as ever;
    images that are resized get the weights' size.

    Args:
      overridden: dotted names, such as "model.norm_eps".
      stored: the config of a run that goes on; then its architecture is taken, from the same file
        once, and the file need not be there any more.

    Raises:
      WeightsError: the weights cannot be opened.
    """
    if config.pretrained is None:
        return None
    if stored is not None and stored.pretrained == config.pretrained:
        found, theirs, size = None, stored.model, stored.data.image_size
        assert stored.data.mean is not None
        assert stored.data.std is not None
        pixels = Preprocessing(stored.data.mean, stored.data.std)
    else:
        try:
            found = open_pretrained(config.pretrained, _given_heads(config.model, overridden))
        except WeightsError as error:
            raise WeightsError(f"pretrained: {error}") from error
        theirs, size, pixels = found.model, found.model.image_size, found.preprocessing
    model, lines = _override(theirs, config.model, overridden)
    data = config.data
    if data.name in ("folder", "csv", "huggingface") and data.image_size is None:
        data = dataclasses.replace(data, image_size=config.model.image_size or size)
    config = dataclasses.replace(config, model=model, data=data)
    return Start(config, pixels, found, () if found is None else lines)


def stored_config(workdir: str | None) -> Config | None:
    """The config of the run to go on with; None where there is no checkpoint to go on from."""
    folder = Path(workdir or "").expanduser()
    if not workdir or not is_run_folder(folder):
        return None
    steps = [path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
    if not steps:
        return None
    try:
        return load_config(folder / "config.json")
    except ConfigError:
        from vit_jax.runs.proof import read_proof

        # A power cut can leave half of a file; every checkpoint holds what it held.
        newest = max(steps, key=lambda path: int(path.name))
        try:
            notes = read_proof(newest / "proof").notes
            return from_json(json.dumps(notes["config"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
            pass
        raise


def _given_heads(model: ViT, overridden: Sequence[str]) -> int | None:
    """The number of heads, where the config says it: a bare state_dict does not."""
    given = model.num_heads != ViT().num_heads or "model.num_heads" in overridden
    return model.num_heads if given else None


def _override(theirs: ViT, given: ViT, overridden: Sequence[str]) -> tuple[ViT, tuple[str, ...]]:
    """The weights' architecture under what the config says, and a line on each difference."""
    usual = ViT()
    fields: dict[str, Any] = {"num_classes": None, "image_size": None, "channels": None}
    lines = []
    for name in fields_of(ViT):
        value, there = getattr(given, name), getattr(theirs, name)
        if value == getattr(usual, name) and f"model.{name}" not in overridden:
            continue
        if value != there and name not in fields:
            lines.append(f"model.{name}={value!r}, where the weights have {there!r}")
        fields[name] = value
    return theirs.clone(**fields), tuple(lines)
