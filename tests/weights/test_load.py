"""Recognising layouts, reading run folders, and what is no weights."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vit_jax import load_pretrained
from vit_jax.weights import WeightsError, hub, open_pretrained


@pytest.mark.parametrize("layout", ["huggingface", "timm", "torchvision", "google"])
def test_a_file_says_which_layout_it_is(layout, saved):
    found = open_pretrained(saved(layout))
    assert found.layout == layout
    assert (found.model.width, found.model.depth, found.model.num_classes) == (64, 2, 5)


def test_a_bare_timm_state_dict_tells_its_architecture(saved):
    folder = saved("timm", pool="gap", class_token=False, final_norm="pooled", num_registers=2)
    (folder / "config.json").unlink()
    found = open_pretrained(folder / "model.safetensors")
    model = found.model
    # What no array shows is assumed, and said.
    assert found.preprocessing.notes == (
        "no config.json: num_heads=1, a plain pre-norm ViT with exact GELU, its pool, mean, "
        "std and resizing assumed",
    )
    assert open_pretrained(folder / "model.safetensors", num_heads=4).model.num_heads == 4
    assert (model.pool, model.final_norm, model.num_registers) == ("gap", "pooled", 2)
    assert (model.has_class_token, model.image_size) == (False, (24, 24))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_training_are_taken_off(prefix, saved, tmp_path):
    arrays = load_file(saved("torchvision"))
    save_file({prefix + name: a for name, a in arrays.items()}, tmp_path / "wrapped.safetensors")
    assert open_pretrained(tmp_path / "wrapped.safetensors").layout == "torchvision"


def test_torchvision_of_the_first_days_called_its_layers_otherwise(saved, tmp_path, images_of):
    path = saved("torchvision")
    arrays = load_file(path)
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): array
        for name, array in arrays.items()
    }
    assert old.keys() != arrays.keys()
    save_file(old, tmp_path / "old.safetensors")
    model, variables, _ = load_pretrained(path, say=None)
    _, again, _ = load_pretrained(tmp_path / "old.safetensors", say=None)
    images = images_of(model)
    assert np.array_equal(model.apply(variables, images), model.apply(again, images))


def test_a_pytorch_file_gives_what_safetensors_gives(saved, tmp_path, images_of):
    torch = pytest.importorskip("torch", reason="reads its own files; Python 3.11 only")
    path = saved("torchvision")
    arrays = {name: torch.from_numpy(a) for name, a in load_file(path).items()}
    torch.save(arrays, tmp_path / "vit.pth")
    model, variables, _ = load_pretrained(path, say=None)
    _, again, spec = load_pretrained(tmp_path / "vit.pth", say=None)
    assert spec.layout == "torchvision"
    images = images_of(model)
    assert np.array_equal(model.apply(variables, images), model.apply(again, images))


def test_missing_and_extra_parameters_are_named_with_the_nearest_name(saved, tmp_path):
    arrays = load_file(saved("torchvision"))
    arrays["encoder.lnn.weight"] = arrays.pop("encoder.ln.weight")
    save_file(arrays, tmp_path / "a.safetensors")
    message = (
        r"read as torchvision, lacks encoder\.ln\.weight \(perhaps it is called "
        r"encoder\.lnn\.weight\), and has encoder\.lnn\.weight, for which"
    )
    with pytest.raises(WeightsError, match=message):
        load_pretrained(tmp_path / "a.safetensors")


def test_what_is_no_vit_or_only_a_part_of_one_is_refused(tmp_path, saved):
    save_file({"layer1.0.conv1.weight": np.ones(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match=r"no ViT in the layout of .*layer1\.0\.conv1\.weight"):
        load_pretrained(tmp_path / "resnet.safetensors")
    save_file({"conv_proj.weight": np.ones((8, 3, 4, 4))}, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 'encoder\.pos_embedding'.* a part of one"):
        load_pretrained(tmp_path / "part.safetensors")


@pytest.mark.parametrize("value", [None, [], "x", {"a": None}, 3.5])
@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ("huggingface", "image_size"),
        ("huggingface", "num_attention_heads"),
        ("huggingface", "id2label"),
        ("huggingface", "layer_norm_eps"),
        ("timm", "model_args"),
        ("timm", "pretrained_cfg"),
        ("timm", "architecture"),
    ],
)
def test_a_config_of_odd_values_is_one_kind_of_error(layout, key, value, saved, images_of):
    folder = saved(layout)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    try:
        model, variables, _ = load_pretrained(folder, say=None)
    except WeightsError:
        return
    # What is accepted has to work.
    assert model.apply(variables, images_of(model)).shape == (2, 5)


@pytest.mark.parametrize("dtype", [np.int8, np.bool_, np.int64])
def test_what_is_no_floating_point_is_refused(dtype, saved, tmp_path):
    arrays = load_file(saved("torchvision"))
    arrays["encoder.ln.weight"] = arrays["encoder.ln.weight"].astype(dtype)
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"encoder\.ln\.weight holds .*: expected floating"):
        load_pretrained(tmp_path / "a.safetensors")


def test_shapes_that_only_add_up_are_refused(saved, tmp_path):
    folder = saved("huggingface")
    arrays = load_file(folder / "model.safetensors")
    name = "vit.encoder.layer.0.attention.attention.{}.weight"
    query, key = arrays[name.format("query")], arrays[name.format("key")]
    arrays[name.format("query")] = np.concatenate([query, key[:32]])
    arrays[name.format("key")] = key[32:].copy()
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"should be alike, but have shapes \(96, 64\), \(32"):
        load_pretrained(folder)


def test_folders_that_hold_nothing_or_too_much(tmp_path, saved):
    with pytest.raises(WeightsError, match="there is no such file or folder"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no weights: expected one of model\.safetensors"):
        load_pretrained(tmp_path)
    for name in "ab":
        save_file({"a": np.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"several weights, a.safetensors, b.safetensors: name"):
        load_pretrained(tmp_path)


def test_positions_that_are_no_square_ask_for_the_size(saved, tmp_path):
    arrays = load_file(saved("torchvision"))
    arrays["encoder.pos_embedding"] = arrays["encoder.pos_embedding"][:, :9]
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="8 positions of patches make no square, and nothing"):
        load_pretrained(tmp_path / "a.safetensors")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:1")
    return tmp_path / "hub"


def test_a_model_in_the_local_cache_of_the_hub_needs_no_network(cache, saved):
    folder = saved("huggingface")
    snapshot = cache / "models--someone--some-vit" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        os.link(file, snapshot / file.name)
    refs = cache / "models--someone--some-vit" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123abc")
    found = open_pretrained("hf-hub:someone/some-vit")
    assert (found.layout, found.model.width) == ("huggingface", 64)


def test_without_network_the_answer_is_quick_and_says_where_it_looked(cache, monkeypatch):
    import huggingface_hub

    download = huggingface_hub.snapshot_download

    def only_local(*args, local_files_only=False, **options):
        # Online, huggingface_hub tries for 23 s before it gives up.
        assert local_files_only
        return download(*args, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", only_local)
    for proxy in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    message = rf"not in the cache, {cache}, and https://127.0.0.1:1 does not answer"
    with pytest.raises(WeightsError, match=message):
        open_pretrained("hf-hub:someone/some-vit")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids more"):
        open_pretrained("hf-hub:someone/some-vit")


def test_a_name_that_is_none_and_a_missing_package(monkeypatch):
    pytest.importorskip("huggingface_hub")
    for name in ("a/b/c", "nonsense", "a/b c"):
        with pytest.raises(WeightsError, match="expected hf-hub:USER/REPO"):
            open_pretrained(f"hf-hub:{name}")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="pip install huggingface_hub"):
        hub.fetch("hf-hub:a/b")
