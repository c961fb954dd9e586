"""A model from disk, and what images have to become for it."""

import dataclasses
import json
import os
from pathlib import Path

from vit_jax.config import Config
from vit_jax.data.decode import Pixels
from vit_jax.data.source import DataConfig, DataError
from vit_jax.models import ViT
from vit_jax.runs.folder import is_run_folder
from vit_jax.train.fill_in import input_shape
from vit_jax.train.state import Params
from vit_jax.weights.load import load_pretrained
from vit_jax.weights.preprocessing import resizing
from vit_jax.weights.run_folder import Which, load_run


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A trained model, with its preprocessing and the names of its classes."""

    source: str
    """Where it comes from, as the user wrote it."""
    label: str
    """What people know it by: its source, and of a run the checkpoint."""
    config: Config
    """Of a run, as it was trained; of published weights, `model` and how `data` prepares images."""
    params: Params
    class_names: tuple[str, ...] | None
    """By label; None where the weights do not tell them."""
    dtype: str = "uint8"
    """Of the pixels it was trained on."""
    is_run: bool = False

    @property
    def model(self) -> ViT:
        return self.config.model

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs: the classes, or their numbers where nothing tells them."""
        return self.class_names or tuple(map(str, range(self.model.num_classes or 0)))

    @property
    def mean(self) -> tuple[float, ...]:
        """To subtract from pixels in 0..1, per channel."""
        assert self.config.data.mean is not None, "filled in"
        return self.config.data.mean

    @property
    def std(self) -> tuple[float, ...]:
        """To divide by after that, per channel."""
        assert self.config.data.std is not None, "filled in"
        return self.config.data.std

    def pixels(self) -> Pixels:
        """What an image file becomes: as in the training.

        Raises:
          DataError: no file can hold such images.
        """
        height, width, channels = input_shape(self.model)
        if channels not in (1, 3) or (self.dtype != "uint8" and channels != 1):
            raise DataError(
                f"{self.source} takes images of {channels} channels of {self.dtype}, which no "
                "image file holds: read them as arrays, data.name='arrays'"
            )
        data = self.config.data
        return Pixels(
            height,
            width,
            channels,
            self.dtype,
            keep_proportions=data.resize == "crop",
            crop_fraction=data.crop_fraction,
            background=data.background,
            max_pixels=data.max_pixels,
            crop_rounding=data.crop_rounding,
            interpolation=data.interpolation,
        )


def open_model(source: str | os.PathLike[str], checkpoint: Which | int = "latest") -> SavedModel:
    """Read a run folder, or weights as `load_pretrained` takes them.

    Args:
      checkpoint: of a run folder: latest, best (by held-out accuracy), or a step.

    Raises:
      RunError, CheckpointError, WeightsError: there is no such model.
    """
    path = Path(source).expanduser()
    if is_run_folder(path):
        run = load_run(path, checkpoint)
        facts = path / "data.json"
        dtype = json.loads(facts.read_text())["train"]["dtype"] if facts.exists() else "uint8"
        # Wherever it was trained, it is used on what is here.
        config = dataclasses.replace(run.config, device="auto")
        label = f"{path}, checkpoint {run.step}"
        return SavedModel(
            os.fspath(source), label, config, run.params, run.class_names, dtype, is_run=True
        )
    model, variables, spec = load_pretrained(source)
    data = DataConfig(
        mean=spec.mean,
        std=spec.std,
        image_size=spec.image_size,
        channels=model.channels,
        **resizing(spec),
    )
    label = os.fspath(source)
    return SavedModel(
        label, label, Config(model=model, data=data), variables["params"], spec.class_names
    )
