"""The examples run as their first lines say, and what they print is right."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vit_jax.config import Config, field_names

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "tour.ipynb"


def run(name, cwd, *arguments):
    """What an example prints, in a process of its own and with one device, as its readers have."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern, text):
    """The last number in the text that the pattern's group finds."""
    found = re.findall(pattern, text)
    assert found, text
    return float(found[-1])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.slow
def test_train_loop_learns(tmp_path):
    printed = run("train_loop.py", tmp_path)
    assert number(r"test accuracy ([\d.]+)%", printed) > 92


def test_from_nnx_gives_the_same_logits(tmp_path):
    printed = run("from_nnx.py", tmp_path)
    assert number(r"loss ([\d.]+) ->", printed) == pytest.approx(np.log(10), abs=1e-3)
    assert number(r"-> ([\d.]+)", printed) < np.log(10) - 0.005
    assert number(r"largest logit ([\d.]+)", printed) > 0.02
    assert number(r"largest difference (\S+)", printed) < 1e-6


def test_from_equinox_learns_and_gives_the_same_logits(tmp_path):
    pytest.importorskip("equinox", reason="the example is about it")
    printed = run("from_equinox.py", tmp_path)
    assert number(r"loss ([\d.]+) ->", printed) == pytest.approx(np.log(10), abs=1e-3)
    assert number(r"-> ([\d.]+)", printed) < 1.0
    assert number(r"largest logit ([\d.]+)", printed) > 1
    assert number(r"largest difference (\S+)", printed) < 1e-5


@pytest.mark.long
@pytest.mark.slow
def test_attention_falls_on_the_shape(tmp_path):
    from matplotlib.image import imread

    printed = run("attention_maps.py", tmp_path, "--out", tmp_path / "looks.png")
    assert number(r"accuracy on 500 other scenes ([\d.]+)%", printed) > 95
    pairs = re.findall(r"(\w+) -> (\w+) \d+%", printed)
    assert len(pairs) == 8
    assert sum(truth == guess for truth, guess in pairs) >= 7
    image = imread(tmp_path / "looks.png")
    assert image.shape[1] > 900
    # The first row of pictures is bright, those under it are dark but for the shapes.
    thirds = [part[..., :3].max(axis=-1) for part in np.array_split(image[40:], 3)]
    white = [part < 0.999 for part in thirds]
    bright, dark, _ = (part[mask].mean() for part, mask in zip(thirds, white, strict=True))
    assert dark < 0.6 * bright


@pytest.mark.long
@pytest.mark.slow
def test_weights_and_a_folder_go_through_fine_tuning_and_attention(tmp_path):
    printed = run("fine_tune_folder.py", tmp_path)
    assert "initialised anew for 2 classes (instead of 6)" in printed
    assert "80 images to train on" in printed
    assert number(r"held-out accuracy ([\d.]+)%", printed) > 90
    found = re.findall(r"val/(\w+)/\d+\.png: (\w+) \d+%", printed)
    assert len(found) == 6
    assert sum(truth == guess for truth, guess in found) >= 5

    # What was fine-tuned is looked into by the other example.
    image = next((tmp_path / "runs/colours/images/val/warm").iterdir())
    printed = run("attention_maps.py", tmp_path, "runs/fine_tune-1", image)
    assert f"runs/attention.png: {image.name} -> warm" in printed


def test_scenes_are_as_they_are_called():
    spec = importlib.util.spec_from_file_location("scenes", EXAMPLES / "scenes.py")
    scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scenes)
    images, shapes, colours = scenes.scenes(60, seed=5, size=48)
    assert images.shape == (60, 48, 48, 3)
    assert set(shapes) == set(range(4))
    # The brightest pixels are the shape's, and among those the channels tell its colour.
    primary = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]])
    shares = np.sort(images.max(axis=-1).reshape(60, -1), axis=1)[:, -60]
    for image, colour, share in zip(images, colours, shares, strict=True):
        found = image[image.max(axis=-1) >= share].mean(axis=0)
        nearest = abs(255 * (0.35 + 0.65 * primary) - found).sum(axis=1).argmin()
        assert nearest == colour


def test_the_notebook_holds_its_outputs():
    text = NOTEBOOK.read_text()
    assert len(text) < 1_500_000
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    # In order, from the first to the last; only imports and definitions print nothing.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 7
    assert all(output.get("name") != "stderr" for output in outputs)
    check_notebook(outputs)
    assert not re.search(r"/(home|tmp|usr|root|work)/|Warning", printed_by(outputs))


@pytest.mark.long
@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="reads notebooks")
    nbclient = pytest.importorskip("nbclient", reason="runs notebooks")
    pytest.importorskip("ipykernel", reason="runs their code")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples")
    notebook = nbformat.read(folder / NOTEBOOK.name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=resources
    )
    client.execute()
    check_notebook([output for cell in notebook.cells for output in cell.get("outputs", [])])


def check_notebook(outputs):
    """What it prints is right: by hand as by the library, and models that have learned."""
    printed = printed_by(outputs)
    differences = [float(x) for x in re.findall(r"at most (\S+)", printed)]
    assert len(differences) == 6
    assert max(differences) < 1e-5
    accuracies = [float(x) for x in re.findall(r"test accuracy ([\d.]+)%", printed)]
    assert len(accuracies) == 5
    assert accuracies[0] > 92
    assert min(accuracies) > 85
    assert number(r"accuracy on 500 other scenes ([\d.]+)%", printed) > 95
    assert "before training: accuracy 9.9%, answers [0]" in printed


def printed_by(outputs):
    return "".join("".join(output.get("text", "")) for output in outputs)


def test_what_the_tour_names_is_there():
    tour = (ROOT / "docs" / "tour.md").read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", tour)
    files = re.findall(r"\b(?:vit_jax|tests|configs|examples)/[a-z][\w/]*\.\w+", tour)
    assert len(links) >= 10
    assert len(files) >= 40
    for path in [ROOT / "docs" / link for link in links] + [ROOT / file for file in files]:
        assert path.exists(), path
    fields = re.findall(r"--config\.([a-z_.]+)", tour)
    assert len(fields) >= 5
    assert set(fields) <= set(field_names(Config()))
