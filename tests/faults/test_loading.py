"""Weights that are adapted, judged and fetched, rows W6 to W9 of the table of faults."""

import json
import pickle
import runpy

import jax
import numpy as np
import pytest
from data.folders import plain, save
from faults.bait import Bomb, refused
from safetensors.numpy import load_file, save_file
from weights.random_models import NAMES, PREPROCESSING, save_random

from vit_jax import load_pretrained, save_pretrained
from vit_jax.cli import main
from vit_jax.inference.saved import open_model
from vit_jax.weights import WeightsError, hub


@pytest.mark.fault(
    "Weights are asked for at another image size and with another patch size",
    "Positions and patches are resampled, and a line says each",
)
def test_w6_another_size_is_resampled_and_said(tmp_path, capsys):
    path = save_random(tmp_path, "timm")
    model, variables, _ = load_pretrained(path, image_size=40)
    assert capsys.readouterr().out.splitlines() == [
        "pos_embed: resampled from 3x3 to 5x5 patches, bicubic_antialias"
    ]
    assert variables["params"]["pos_embed"].shape == (1, 26, 64)
    model, variables, _ = load_pretrained(path, patch_size=4, image_size=12)
    assert capsys.readouterr().out.splitlines() == [
        "patch_embed: patches of 8x8 pixels resized to 4x4, by pseudo-inverse"
    ]
    assert model.apply(variables, np.zeros((1, 12, 12, 3), np.float32)).shape == (1, 5)


@pytest.mark.fault(
    "Weights are asked for with another depth or width than they have",
    "The parameters that are missing, left over or of another shape are named",
)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 3}, "does not fit the model asked for: it lacks encoder/block_2/"),
        ({"depth": 1}, "does not fit the model asked for: it holds encoder/block_1/"),
        ({"width": 32}, "cls_token has shape (1, 1, 64), the model asked for needs (1, 1, 32)"),
    ],
    ids=str,
)
def test_w6_another_depth_or_width_is_refused_by_name(fields, message, tmp_path):
    path = save_random(tmp_path, "timm")
    with pytest.raises(WeightsError) as error:
        load_pretrained(path, **fields)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "leave out the fields of the model that the file already tells" in str(error.value)


@pytest.mark.fault(
    "Weights are loaded with another number of classes than their head has",
    "The head is made anew, which one line says, and its classes have no names",
)
def test_w7_a_new_head_is_said_in_one_line(tmp_path, capsys):
    path = save_random(tmp_path, "timm")
    _, variables, spec = load_pretrained(path, num_classes=2)
    assert capsys.readouterr().out.splitlines() == [
        "head: initialised anew for 2 classes (instead of 5); train it"
    ]
    assert (spec.fresh_head, spec.class_names) == (True, None)
    assert variables["params"]["head"]["kernel"].shape == (64, 2)


@pytest.fixture
def photographs(tmp_path):
    """A folder with the classes of the weights, a picture each in train and val."""
    for split in ("train", "val"):
        for number, name in enumerate(NAMES):
            save(tmp_path / "photographs" / split / name / "1.png", plain(number, 24, 24))
    return tmp_path / "photographs"


@pytest.mark.fault(
    "Weights are evaluated on data with more classes than they have",
    "It is refused with both numbers and the command to fine-tune first",
)
def test_w7_a_head_for_other_classes_is_not_judged(tmp_path, photographs, capsys):
    path = save_random(tmp_path, "timm", num_classes=3)
    message = refused(capsys, "evaluate", path, "--data", photographs)
    assert message == (
        f"{path} tells 3 classes apart, folder has 5: a head for those would be untrained, and "
        "its accuracy chance. Fine-tune first: python train.py --config CONFIG "
        f"--config.pretrained={path}"
    )


@pytest.mark.fault(
    "Weights are saved with a head made anew, and evaluated without training it",
    "It is refused with the command to fine-tune first",
)
def test_w7_a_head_made_anew_is_not_judged(tmp_path, photographs, capsys):
    old = save_random(tmp_path, "timm", num_classes=3)
    model, variables, _ = load_pretrained(old, num_classes=5, say=None)
    path = save_pretrained(tmp_path / "new", "timm", model, variables, PREPROCESSING, say=None)
    message = refused(capsys, "evaluate", path, "--data", photographs)
    assert message == (
        f"{path} has a head of zeros, as one made anew has before it is trained: its accuracy "
        "would be chance. Fine-tune first: python train.py --config CONFIG "
        f"--config.pretrained={path}"
    )
    # A single number other than zero is a head.
    head = variables["params"]["head"]
    head["kernel"] = head["kernel"].at[3, 1].set(1e-9)
    path = save_pretrained(tmp_path / "other", "timm", model, variables, PREPROCESSING, say=None)
    assert main(["evaluate", str(path), "--data", str(photographs)]) == 0
    assert "5 images" in capsys.readouterr().out


@pytest.mark.fault(
    "A parameter of a file of weights holds NaN or an infinite number",
    "It is refused by the name of the parameter, and nothing is written",
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", ["huggingface", "timm", "torchvision", "google"])
def test_w8_values_that_are_no_numbers_are_refused(value, layout, tmp_path, capsys):
    path = save_random(tmp_path, layout)
    file = path / "model.safetensors" if path.is_dir() else path
    google = layout == "google"
    arrays = dict(np.load(file, allow_pickle=False)) if google else load_file(file)
    name = [name for name in arrays if "norm" in name.lower() or "ln" in name][3]
    arrays[name].flat[-1] = value
    np.savez(file, **arrays) if google else save_file(arrays, file)
    message = refused(capsys, "convert", path, tmp_path / "out", "--to", "timm")
    assert message == (
        f"{file}: {name} holds NaN or infinite values: the file is damaged, or its training "
        "diverged"
    )
    assert not (tmp_path / "out").exists()


def plant(folder, marker):
    """Put code into a folder of weights, under every name that something might run."""
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("modeling_vit", "configuration_vit", "__init__", "conftest", "sitecustomize"):
        (folder / f"{name}.py").write_text(code)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    mapped = {"AutoConfig": "configuration_vit.C", "AutoModel": "modeling_vit.M"}
    for name in ("config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content |= {"auto_map": mapped, "trust_remote_code": True, "custom_pipelines": mapped}
        (folder / name).write_text(json.dumps(content))


@pytest.mark.fault(
    "A folder of weights holds Python files, a config.json that names them, and a pickle",
    "The weights are read, described, converted and used, and none of it runs",
)
def test_w9_code_beside_weights_never_runs(tmp_path, monkeypatch, capsys):
    folder, marker = save_random(tmp_path, "huggingface"), tmp_path / "executed"
    _, before, _ = load_pretrained(folder, say=None)
    plant(folder, marker)
    monkeypatch.chdir(folder)
    _, after, _ = load_pretrained(folder, say=None)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert open_model(folder).class_names == NAMES
    save(tmp_path / "photo.png", plain(7, 24, 24))
    for command in (
        ["summary", folder],
        ["convert", folder, tmp_path / "out", "--to", "timm"],
        ["predict", folder, tmp_path / "photo.png"],
    ):
        assert main([*map(str, command)]) == 0
    assert not marker.exists()
    # Any of it would have left its mark.
    runpy.run_path(str(folder / "modeling_vit.py"))
    marker.unlink()
    pickle.loads((folder / "pytorch_model.bin").read_bytes()).close()  # noqa: S301
    assert marker.exists()


THERE = {
    **dict.fromkeys(("config.json", "preprocessor_config.json", "model.safetensors"), True),
    **dict.fromkeys(("model-00001-of-00002.safetensors", "vit_b16.npz"), True),
    "model.safetensors.index.json": True,
    **dict.fromkeys(("modeling_vit.py", "model.py", "model.safetensors.py", "setup.cfg"), False),
    **dict.fromkeys(("pytorch_model.bin", "model.pkl", "model.safetensors.pkl"), False),
    **dict.fromkeys(("flax_model.msgpack", "tf_model.h5", "model.pt", "model.ckpt"), False),
}
"""What a repository may hold, and whether it is fetched."""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """`repository(names)`: what the Hub has of a model; the list of what is fetched of it."""
    hub_package = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "_answers", lambda host: True)

    def repository(names):
        fetched = []

        def download(name, revision=None, allow_patterns=None, local_files_only=False):
            if local_files_only:
                raise hub_package.errors.LocalEntryNotFoundError("empty")
            filtered = hub_package.utils.filter_repo_objects(names, allow_patterns=allow_patterns)
            for file in filtered:
                save(tmp_path / "snapshot" / file, b"{}")
                fetched.append(file)
            return str(tmp_path / "snapshot")

        monkeypatch.setattr(hub_package, "snapshot_download", download)
        return fetched

    return repository


@pytest.mark.fault(
    "A repository of the Hub holds code and pickles besides weights",
    "Only its json, safetensors and npz files are fetched",
)
def test_w9_of_the_hub_no_code_and_no_pickle_is_fetched(repository, tmp_path):
    fetched = repository([*THERE])
    assert hub.fetch("hf-hub:someone/some-vit") == tmp_path / "snapshot"
    assert sorted(fetched) == sorted(name for name, wanted in THERE.items() if wanted)


@pytest.mark.fault(
    "A repository of the Hub holds its weights as a pickle alone",
    "It is refused with what to do, and the pickle is not fetched",
)
def test_w9_a_repository_of_pickles_is_refused(repository):
    fetched = repository(["config.json", "pytorch_model.bin"])
    message = (
        r"hf-hub:a/b holds no model\.safetensors and no \.npz: .*pickles, .* convert them with"
    )
    with pytest.raises(WeightsError, match=message):
        load_pretrained("hf-hub:a/b")
    assert fetched == ["config.json"]
