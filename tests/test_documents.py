"""README and examples run as they stand."""

import re
import tomllib
from pathlib import Path

import jax
import numpy as np

import vit_jax
from vit_jax import ViT, load_pretrained, save_pretrained
from vit_jax.weights.layout import Preprocessing

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


WEIGHTS, MODULES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_of_weights_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = ViT(32, 64, 1, 1, num_classes=3, image_size=(224, 224), channels=3)
    variables = model.init(jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
    spec = Preprocessing((0.5,) * 3, (0.5,) * 3)
    save_pretrained("vit-tiny", "huggingface", model, variables, spec)
    exec(compile(WEIGHTS, "README.md", "exec"), {})  # noqa: S102
    out = capsys.readouterr().out
    assert "pos_embed: resampled from 7x7 to 8x8 patches, bicubic" in out
    assert "(1, 2) ('pos_embed" in out
    assert load_pretrained("vit-tiny.npz", say=None)[2].image_size == (256, 256)


def test_the_example_of_modules_in_the_readme_runs(capsys):
    exec(compile(MODULES, "README.md", "exec"), {})  # noqa: S102
    [loss] = re.findall(r"loss (\d\.\d+)", capsys.readouterr().out)
    # Eight images that are all alike: the best answer is 1/8 for each of eight labels.
    assert abs(float(loss) - np.log(8)) < 0.05


def test_every_local_link_and_config_in_the_readme_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    configs = re.findall(r"configs/\w+\.py", README)
    assert len(links) >= 3
    assert len(configs) >= 4
    for name in links + configs:
        assert (ROOT / name).exists(), name


def test_the_tree_in_the_readme_is_the_tree():
    tree = README.split("## The tree")[1]
    for room in (path for path in (ROOT / "vit_jax").iterdir() if not path.name.startswith("_")):
        if room.name != "py.typed":
            assert room.name in tree, room.name


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == vit_jax.__version__
