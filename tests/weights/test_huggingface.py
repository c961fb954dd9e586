"""Hugging Face folders against transformers itself, both ways."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weights.random_models import NAMES

from vit_jax import load_pretrained, save_pretrained
from vit_jax.weights import WeightsError
from vit_jax.weights.processor import NO_FILE

torch = pytest.importorskip("torch", reason="the reference; installed for Python 3.11 only")
transformers = pytest.importorskip("transformers", reason="the reference; Python 3.11 only")

TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "image_size": 24,
    "patch_size": 8,
}


@pytest.fixture
def reference(tmp_path):
    """`reference(kind, **config)`: a model of transformers with random weights, and its folder."""

    def reference(kind, size="5GB", **config):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(transformers.ViTConfig(**(TINY | config))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
        model.save_pretrained(tmp_path / "theirs", max_shard_size=size)
        return model, tmp_path / "theirs"

    return reference


def run(model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2)))


def images(height=24, width=24, channels=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, height, width, channels)).astype(np.float32)


def relative(found, expected):
    expected = np.asarray(expected)
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"qkv_bias": False, "num_labels": 7},
        {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
        {"num_channels": 1, "num_labels": 1},
        {"image_size": (24, 32), "patch_size": (8, 4)},
    ],
    ids=str,
)
def test_a_classifier_gives_the_same_logits(reference, config):
    model, folder = reference("ViTForImageClassification", **config)
    ours, variables, spec = load_pretrained(folder, say=None)
    pixels = images(*spec.image_size, ours.channels)
    assert relative(ours.apply(variables, pixels), run(model, pixels).logits) < 1e-5


def test_a_pooler_beside_a_classifier_is_left_out_and_said(reference):
    model, folder = reference("ViTForImageClassification")
    arrays = load_file(folder / "model.safetensors")
    arrays |= {"vit.pooler.dense.weight": np.ones((48, 48), np.float32)}
    arrays |= {"vit.pooler.dense.bias": np.ones(48, np.float32)}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    ours, variables, spec = load_pretrained(folder, say=None)
    assert spec.steps == (
        NO_FILE,
        "not read, as no part of the ViT: vit.pooler.dense.bias, vit.pooler.dense.weight",
    )
    assert relative(ours.apply(variables, images()), run(model, images()).logits) < 1e-5


@pytest.mark.parametrize(
    "steps",
    [
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"do_rescale": False, "image_mean": [127, 120, 110], "image_std": [60, 61, 62]},
        {"rescale_factor": 0.00392156862745098, "image_mean": [0.4, 0.5, 0.6]},
    ],
    ids=str,
)
def test_the_steps_of_an_image_processor_become_mean_and_std(steps, reference):
    _, folder = reference("ViTForImageClassification")
    size = {"height": 24, "width": 24}
    processor = transformers.ViTImageProcessorPil(size=size, **steps)
    processor.save_pretrained(folder)
    _, _, spec = load_pretrained(folder, say=None)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    expected = processor(pixels, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    found = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_shards_are_read(reference):
    model, folder = reference("ViTForImageClassification", size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    ours, variables, _ = load_pretrained(folder, say=None)
    assert relative(ours.apply(variables, images()), run(model, images()).logits) < 1e-5


def test_a_state_dict_has_the_names_in_memory(reference):
    model, folder = reference("ViTForImageClassification")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert "vit.layers.0.mlp.fc1.weight" in model.state_dict()
    ours, variables, _ = load_pretrained(folder, say=None)
    assert relative(ours.apply(variables, images()), run(model, images()).logits) < 1e-5


def test_a_bare_model_keeps_its_pooler(reference):
    model, folder = reference("ViTModel", pooler_output_size=20)
    ours, variables, _ = load_pretrained(folder, say=None)
    expected = run(model, images())
    out = ours.apply(variables, images(), method="features")
    assert relative(out["tokens"], expected.last_hidden_state) < 1e-5
    assert relative(out["pooled"], expected.pooler_output) < 1e-5


def test_masked_pre_training_leaves_an_encoder(reference):
    model, folder = reference("ViTForMaskedImageModeling", encoder_stride=8)
    ours, variables, _ = load_pretrained(folder, say=None)
    assert ours.num_classes is None
    expected = run(model.vit, images()).last_hidden_state
    tokens = ours.apply(variables, images(), method="features")["tokens"]
    assert relative(tokens, expected) < 1e-5


@pytest.mark.parametrize("size", [(40, 40), (16, 40)], ids=str)
def test_positions_are_resampled_as_transformers_does(reference, size):
    model, folder = reference("ViTForImageClassification")
    ours, variables, spec = load_pretrained(folder, image_size=size, say=None)
    rows, columns = size[0] // 8, size[1] // 8
    assert spec.steps[1:] == (
        f"pos_embed: resampled from 3x3 to {rows}x{columns} patches, bicubic",
    )
    pixels = images(*size)
    with torch.no_grad():
        expected = model(
            torch.from_numpy(pixels.transpose(0, 3, 1, 2)), interpolate_pos_encoding=True
        ).logits
    assert relative(ours.apply(variables, pixels), expected) < 1e-5


@pytest.mark.parametrize(
    "fields",
    [{"num_heads": 4}, {"qkv_bias": False, "activation": "gelu_tanh"}, {"image_size": (24, 32)}],
    ids=str,
)
def test_transformers_opens_what_we_write(fields, random_model, preprocessing, tmp_path):
    model, variables = random_model(norm_eps=1e-4, **fields)
    folder = save_pretrained(tmp_path / "m", "huggingface", model, variables, preprocessing)
    theirs, loading = transformers.ViTForImageClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = images(*model.image_size)
    expected = run(theirs.eval(), pixels).logits.numpy()
    found = np.asarray(model.apply(variables, pixels))
    assert relative(found, expected) < 1e-5
    assert np.array_equal(np.argsort(found)[:, ::-1][:, :5], np.argsort(expected)[:, ::-1][:, :5])
    assert [theirs.config.id2label[i] for i in range(5)] == list(NAMES)


def test_transformers_opens_a_bare_model_too(random_model, preprocessing, tmp_path):
    model, variables = random_model(num_classes=None, representation=40)
    folder = save_pretrained(tmp_path / "m", "huggingface", model, variables, preprocessing)
    theirs, loading = transformers.ViTModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = run(theirs.eval(), images()).pooler_output
    assert relative(model.apply(variables, images()), expected) < 1e-5


def test_a_pipeline_gives_our_probabilities(random_model, preprocessing, tmp_path):
    from PIL import Image

    model, variables = random_model()
    folder = save_pretrained(tmp_path / "m", "huggingface", model, variables, preprocessing)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    pipeline = transformers.pipeline("image-classification", model=str(folder), top_k=5)
    expected = {answer["label"]: answer["score"] for answer in pipeline(Image.fromarray(pixels))}
    inputs = (pixels[None] / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    found = jax.nn.softmax(model.apply(variables, inputs.astype(np.float32)))[0]
    assert expected == pytest.approx(dict(zip(NAMES, found.tolist(), strict=True)), abs=1e-5)


def test_the_image_processor_is_described(random_model, preprocessing, tmp_path):
    model, variables = random_model()
    folder = save_pretrained(tmp_path / "m", "huggingface", model, variables, preprocessing)
    found = json.loads((folder / "preprocessor_config.json").read_text())
    assert found["image_mean"] == [0.5, 0.4, 0.3]
    assert found["image_std"] == [0.2, 0.25, 0.3]
    # Ours keeps the proportions and cuts the centre out, which ViTImageProcessor does not.
    assert found["image_processor_type"] == "BitImageProcessor"
    assert found["size"] == {"shortest_edge": 24}
    assert found["crop_size"] == {"height": 24, "width": 24}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "deit"}, "model_type='deit' is another architecture"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is none of gelu"),
        ({"num_hidden_layers": 3}, r"lacks vit\.encoder\.layer\.2.* and 12 more"),
        ({"num_hidden_layers": 1}, "vit.encoder.layer.1.* for which .* no place"),
        ({"hidden_size": 96}, "but the architecture needs"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_an_error_that_names_it(reference, change, message):
    _, folder = reference("ViTForImageClassification")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=message):
        load_pretrained(folder)


def test_without_its_config_a_model_is_not_guessed(reference):
    _, folder = reference("ViTForImageClassification")
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"whose config\.json should lie beside it"):
        load_pretrained(folder)


@pytest.mark.slow
def test_the_real_weights_agree_on_every_photograph(test_data):
    from vit_jax.data.catalog import open_source
    from vit_jax.data.encoded import decode_all
    from vit_jax.data.source import DataConfig

    source = test_data / "weights" / "vit_tiny_patch16_224_hf"
    data = DataConfig(name="folder", root=str(test_data / "hymenoptera"), image_size=224)
    photographs = decode_all(open_source(data, "val")).images
    assert len(photographs) == 153
    ours, variables, spec = load_pretrained(source)
    theirs = transformers.ViTForImageClassification.from_pretrained(source).eval()
    apply = jax.jit(ours.apply)
    for start in range(0, 153, 51):
        pixels = photographs[start : start + 51].astype(np.float32) / 255
        pixels = (pixels - np.float32(spec.mean)) / np.float32(spec.std)
        expected = run(theirs, pixels).logits.numpy()
        found = np.asarray(apply(variables, pixels))
        assert relative(found, expected) < 1e-4
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
