"""A training on a folder of pictures that takes a second or two, as people start it."""

from data.folders import plain, save
from faults import processes

from vit_jax import ViT
from vit_jax.cli import train_command
from vit_jax.config import Config, to_json
from vit_jax.data.source import DataConfig
from vit_jax.optim import OptimConfig

COLOURS = {"10": (250, 0, 0), "9": (0, 250, 0), "B": (0, 0, 250), "a": (250, 250, 250)}
"""Classes in the order of their labels, which is that of their characters."""


def make_colours(root, each=4):
    """A folder whose classes are colours; every picture is another shade."""
    for name, colour in COLOURS.items():
        for number in range(each):
            shade = [max(0, channel - 5 * number) for channel in colour]
            save(root / "train" / name / f"{number}.png", plain(shade, 8, 8))
    return root


def streaming(root, workers):
    """The config of forty steps on such a folder, whose pictures are read as they are needed."""
    data = DataConfig(
        name="folder",
        root=str(root),
        train_split="train",
        eval_split=None,
        test_split=None,
        image_size=8,
        feed="streaming",
        workers=workers,
    )
    return processes.small_config(data=data, batch_size=8, steps=40)


def train_on(root, workdir, *arguments, steps=2, name="folder"):
    """The exit code of `train.py` with a small config on the data at `root`."""
    data = {"train_split": "train", "eval_split": None, "test_split": None, "image_size": 8}
    config = Config(
        model=ViT(patch_size=4, width=16, depth=1, num_heads=2, mlp_dim=16),
        data=DataConfig(name=name, root=str(root), workers=0, **data),
        optim=OptimConfig(learning_rate=1e-2, warmup_epochs=0),
        batch_size=8,
        steps=steps,
        checkpoint_every_epochs=1000,
        pictures=False,
        device="cpu",
    )
    path = workdir.with_name(f"{workdir.name}.json")
    path.write_text(to_json(config))
    return train_command(["--config", str(path), f"--workdir={workdir}", *arguments])
