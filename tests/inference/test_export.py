"""Exported files against the model, computed here from the fields of a SavedModel."""

import dataclasses
import functools
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
import tyro
from PIL import Image, ImageOps

from vit_jax import ViT, save_pretrained
from vit_jax.commands.export import export as export_command
from vit_jax.config import Config
from vit_jax.data.source import DataConfig
from vit_jax.inference import export
from vit_jax.inference.export import ExportError, export_onnx, export_stablehlo
from vit_jax.inference.export_check import in_batches, largest_difference, random_batches
from vit_jax.inference.saved import SavedModel, open_model
from vit_jax.models.patches import pair
from vit_jax.weights.layout import Preprocessing

ROOT = Path(__file__).parents[2]
SMALL = {
    "patch_size": 8,
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 5,
    "image_size": (16, 16),
    "channels": 3,
}
# Together, nearly every field that changes what is computed.
KINDS = {
    "cls": {
        "num_registers": 2,
        "layer_scale": 0.1,
        "qk_norm": True,
        "representation": 12,
        "depth": 2,
        "dropout": 0.3,
        "drop_path": 0.3,
        "attention_dropout": 0.3,
        "scan_layers": True,
        "remat": "full",
    },
    "map": {
        "pool": "map",
        "positions": "sincos2d",
        "activation": "gelu_tanh",
        "patch_method": "matmul",
        "image_size": (16, 24),
        "patch_size": (8, 4),
        "channels": 1,
    },
    "gap": {
        "pool": "gap",
        "final_norm": "pooled",
        "class_token": True,
        "class_position": False,
        "attention_method": "fused",
        "qkv_bias": False,
        "head_dim": 6,
        "block_output_norm": True,
        "mlp_output_activation": True,
        "dtype": "bfloat16",
    },
    "headless": {"pool": "none", "positions": "none", "qk_scale": 0.3, "num_classes": None},
}


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


needs_flatbuffers = needs("flatbuffers")
needs_onnx = needs("jax2onnx", "onnx", "onnxruntime")
FORMATS = (
    pytest.param((export_stablehlo, "stablehlo"), marks=needs_flatbuffers, id="stablehlo"),
    pytest.param((export_onnx, "onnx"), marks=needs_onnx, id="onnx"),
)


@pytest.fixture(autouse=True)
def unchecked_types():
    """A symbolic batch is no int, as signatures say that an axis is."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@functools.cache
def make_saved(kind="cls", dtype="uint8"):
    """A small model in which no parameter is zero or one."""
    model = ViT(**(SMALL | KINDS[kind]))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images_of(model, "float32", 1))
    params = jax.tree.map(
        lambda leaf: (0.5 * rng.normal(size=leaf.shape)).astype(np.float32), shapes["params"]
    )
    mean, std = (0.5, 0.4, 0.3)[: model.channels], (0.2, 0.25, 0.3)[: model.channels]
    data = DataConfig(mean=mean, std=std, image_size=model.image_size, channels=model.channels)
    names = ("ant", "bée", "cat", "dog", "emu") if model.num_classes else None
    return SavedModel("here", "here, 7", Config(model=model, data=data), params, names, dtype)


def images_of(model, dtype, count):
    shape = (count, *pair(model.image_size), model.channels)
    rng = np.random.default_rng(count)
    if dtype == "float32":
        return rng.normal(size=shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@functools.cache
def compiled(model):
    return jax.jit(model.apply)


def expected_of(saved, pixels):
    """The model's outputs in float32, with a normalisation written here."""
    scale = 1 if saved.dtype == "float32" else np.iinfo(saved.dtype).max
    images = (pixels.astype(np.float64) / scale - np.array(saved.mean)) / np.array(saved.std)
    apply = compiled(saved.model.clone(dtype=None))
    return np.asarray(apply({"params": saved.params}, images.astype(np.float32)))


def run_file(path, pixels):
    """The outputs of a file, computed as the card beside it says."""
    card = json.loads(Path(f"{path}.json").read_text())
    code = "\n".join(card["code"]).replace(path.name, str(path))
    scope = {"pixels": pixels}
    exec(code, scope)  # noqa: S102
    return np.asarray(scope[card["output"]["name"]])


def check_close(found, expected):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("cls", "uint8"), ("map", "uint16"), ("gap", "float32"), ("headless", "uint8")],
)
@pytest.mark.parametrize("written", FORMATS)
def test_a_file_computes_what_the_model_does(written, kind, dtype, tmp_path):
    write, ending = written
    saved = make_saved(kind, dtype)
    done = write(saved, tmp_path / "model")
    assert done.path == tmp_path / f"model.{ending}"
    assert done.size == done.path.stat().st_size
    assert done.difference <= 1e-5
    pixels = images_of(saved.model, dtype, 3)
    check_close(run_file(done.path, pixels), expected_of(saved, pixels))
    card = json.loads(done.card.read_text())
    assert card["input"]["dtype"] == dtype
    largest = {"uint8": 255, "uint16": 65535, "float32": 1}
    assert card["inside"]["divided_by"] == largest[dtype]


@pytest.mark.parametrize("written", FORMATS)
def test_probabilities_and_a_fixed_batch(written, tmp_path):
    saved = make_saved()
    done = written[0](saved, tmp_path / "model.bin", batch_size=2, probabilities=True)
    assert done.path == tmp_path / "model.bin"  # an ending that is given stays
    assert done.images == 2
    pixels = images_of(saved.model, "uint8", 2)
    powers = np.exp(expected_of(saved, pixels).astype(np.float64))
    found = run_file(done.path, pixels)
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
    card = json.loads(done.card.read_text())
    assert card["input"]["shape"] == [2, 16, 16, 3]
    assert card["output"]["shape"] == [2, 5]
    with pytest.raises(Exception, match=r"(?i)dimension|shape"):
        run_file(done.path, images_of(saved.model, "uint8", 3))


@needs_flatbuffers
def test_a_process_without_this_package_runs_the_file_as_its_card_says(tmp_path):
    saved = make_saved()
    done = export_stablehlo(saved, tmp_path / "model")
    card = json.loads(done.card.read_text())
    assert len(card["code"]) == 3
    program = [
        "import sys, numpy as np",
        "for count in (1, 3, 5):",
        "    pixels = np.load(f'{count}.npy')",
        *(f"    {line}" for line in card["code"]),
        "    np.save(f'{count}_out.npy', logits)",
        "heavy = {'flax', 'vit_jax', 'optax', 'orbax'} & set(sys.modules)",
        "assert not heavy, heavy",
    ]
    for count in (1, 3, 5):
        np.save(tmp_path / f"{count}.npy", images_of(saved.model, "uint8", count))
    subprocess.run([sys.executable, "-c", "\n".join(program)], cwd=tmp_path, check=True)
    for count in (1, 3, 5):
        pixels = images_of(saved.model, "uint8", count)
        check_close(np.load(tmp_path / f"{count}_out.npy"), expected_of(saved, pixels))


@needs_flatbuffers
def test_one_file_is_for_all_platforms_computes_in_float32_and_names_no_path(tmp_path):
    from jax.export import deserialize

    path = export_stablehlo(make_saved(), tmp_path / "model").path
    exported = deserialize(path.read_bytes())
    assert exported.platforms == ("cpu", "cuda", "tpu")
    text = re.sub(r'"0x[0-9A-F]+"', "", exported.mlir_module())
    operations = ("stablehlo.dot_general", "stablehlo.convolution")
    products = [line for line in text.splitlines() if any(name in line for name in operations)]
    assert len(products) >= 1 + 2 * 6 + 2  # patches, six a block, representation and head
    assert all(line.count("HIGHEST") == 2 for line in products)
    assert ".py" not in text
    assert str(ROOT).encode() not in path.read_bytes()


@needs_onnx
@pytest.mark.parametrize(("kind", "formula"), [("cls", b"none"), ("map", b"tanh")])
def test_gelu_stays_the_one_it_is_in_onnx(kind, formula, tmp_path):
    import onnx

    model = onnx.load(export_onnx(make_saved(kind), tmp_path / "model").path)
    gelus = [node for node in model.graph.node if node.op_type == "Gelu"]
    assert len(gelus) == make_saved(kind).model.depth + (kind == "map")  # the pool has an MLP
    assert {attribute.s for node in gelus for attribute in node.attribute} == {formula}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "b"


# -- What is written beside it --


def follow(card, file):
    """The card's steps, with Pillow and nothing of ours."""
    how = card["from_image_to_input"]
    width, height = how["width"], how["height"]
    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, how["background"]), image)
    image = image.convert("L" if card["input"]["channels"] == "grey" else "RGB")
    kept, out = how["crop_fraction"], (width, height)
    scales = [image.width / width, image.height / height]
    if how["resize"] == "crop":
        scales = [min(scales)] * 2
    sides = [side * scale * kept for side, scale in zip(out, scales, strict=True)]
    firsts = [(whole - side) / 2 for whole, side in zip(image.size, sides, strict=True)]
    if how["crop_rounding"] != "none":
        across, down = (int(side / kept) for side in out)
        if how["resize"] == "crop":
            assert image.width < image.height  # a portrait
            round_longer = int if across == down else round
            down = round_longer(across * image.height / image.width)
        scales = [image.width / across, image.height / down]
        spares = [(across - width) / 2, (down - height) / 2]
        spares = [{"even": round, "down": int}[how["crop_rounding"]](spare) for spare in spares]
        sides = [side * scale for side, scale in zip(out, scales, strict=True)]
        firsts = [spare * scale for spare, scale in zip(spares, scales, strict=True)]
    box = (*firsts, *(first + side for first, side in zip(firsts, sides, strict=True)))
    resampling = Image.Resampling[how["interpolation"].upper()]
    image = image.resize((width, height), resampling, box=box)
    return np.asarray(image).reshape(1, *card["input"]["shape"][1:])


@needs_flatbuffers
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("cls", {"resize": "crop", "background": "black"}),
        ("map", {"resize": "squash", "interpolation": "lanczos"}),
        ("map", {"resize": "crop", "crop_rounding": "even", "interpolation": "bilinear"}),
        ("cls", {"resize": "crop", "crop_rounding": "down"}),
        ("map", {"resize": "squash", "crop_rounding": "down"}),
    ],
)
def test_following_the_card_makes_the_pixels_of_the_training(kind, how, tmp_path, monkeypatch):
    saved = make_saved(kind)
    data = dataclasses.replace(saved.config.data, crop_fraction=0.8, **how)
    saved = dataclasses.replace(saved, config=dataclasses.replace(saved.config, data=data))
    drawn = np.random.default_rng(0).integers(0, 256, (40, 57, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(drawn).save(tmp_path / "drawn.png", exif=exif)

    seen = []

    def read(path):
        run = STABLEHLO.read(path)
        return lambda pixels: seen.append(pixels) or run(pixels)

    STABLEHLO = export.STABLEHLO
    monkeypatch.setattr(export, "STABLEHLO", dataclasses.replace(STABLEHLO, read=read))
    done = export_stablehlo(saved, tmp_path / "model", images=[tmp_path / "drawn.png"])
    pixels = follow(json.loads(done.card.read_text()), tmp_path / "drawn.png")
    # The last batch compared is the picture, four times over: a file may ask for full batches.
    assert done.images == 1 + 4 + 4
    np.testing.assert_array_equal(seen[-1], np.repeat(pixels, 4, axis=0))


@needs_flatbuffers
def test_the_card_says_the_rest(tmp_path):
    saved = make_saved()
    done = export_stablehlo(saved, tmp_path / "model")
    card = json.loads(done.card.read_text())
    assert done.card == tmp_path / "model.stablehlo.json"
    assert card["input"]["shape"] == ["b", 16, 16, 3]
    assert card["input"]["axes"] == "batch, height, width, channels"
    assert card["input"]["channels"] == "red, green, blue"
    assert card["inside"]["mean"] == [0.5, 0.4, 0.3]
    assert card["inside"]["std"] == [0.2, 0.25, 0.3]
    assert card["inside"]["divided_by"] == 255
    assert card["output"]["shape"] == ["b", 5]
    assert card["class_names"] == ["ant", "bée", "cat", "dog", "emu"]
    assert card["source"] == "here, 7"
    assert card["versions"]["jax"] == jax.__version__
    assert card["checked"] == {"images": 5, "difference": done.difference, "tolerance": 1e-5}


@needs_flatbuffers
def test_of_features_there_are_no_class_names(tmp_path):
    card = json.loads(export_stablehlo(make_saved("headless"), tmp_path / "m").card.read_text())
    assert card["output"]["name"] == "features"
    assert card["output"]["shape"] == ["b", 4, 16]
    assert card["class_names"] is None


# -- What goes wrong --


def fake(monkeypatch, **changes):
    """A StableHLO that needs nothing installed."""
    changes = {"packages": (), "write": lambda *arguments: b"file", **changes}
    format_ = dataclasses.replace(export.STABLEHLO, **changes)
    monkeypatch.setattr(export, "STABLEHLO", format_)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda out: out + 2e-5 * abs(out).max(), r"2\.\de-05 of the largest, above 1e-05"),
        (lambda out: out * np.float32("nan"), "by nan"),
        (lambda out: out[:, :1], "by inf"),
    ],
)
def test_a_file_that_computes_something_else_is_not_left_behind(wrong, said, tmp_path, monkeypatch):
    saved = make_saved()
    fake(monkeypatch, read=lambda path: lambda pixels: wrong(expected_of(saved, pixels)))
    with pytest.raises(ExportError, match=said):
        export_stablehlo(saved, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_tolerance_lets_rounding_pass(tmp_path, monkeypatch):
    saved = make_saved()

    def run(pixels):
        out = expected_of(saved, pixels)
        return out + np.float32(5e-6) * abs(out).max()

    fake(monkeypatch, read=lambda path: run)
    assert 3e-6 < export_stablehlo(saved, tmp_path / "model").difference < 8e-6
    assert (tmp_path / "model.stablehlo").read_bytes() == b"file"


def test_what_fails_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fails(path):
        raise KeyboardInterrupt

    fake(monkeypatch, read=fails)
    with pytest.raises(KeyboardInterrupt):
        export_stablehlo(make_saved(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["model.stablehlo", "model.stablehlo.json"])
def test_nothing_is_overwritten(there, tmp_path, monkeypatch):
    (tmp_path / there).write_text("mine")
    fake(monkeypatch)
    with pytest.raises(ExportError, match=rf"{there} exists already"):
        export_stablehlo(make_saved(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (export_stablehlo, "written with flatbuffers: pip install flatbuffers"),
        (export_onnx, "with jax2onnx and onnx and onnxruntime: pip install jax2onnx onnx onnx"),
    ],
)
def test_a_missing_package_is_named_with_the_command(write, said, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=said) as caught:
        write(make_saved(), tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_said_before(tmp_path, monkeypatch):
    fake(monkeypatch)
    path = tmp_path / "model"
    with pytest.raises(ExportError, match="batch_size=0"):
        export_stablehlo(make_saved(), path, batch_size=0)
    with pytest.raises(ExportError, match="no head"):
        export_stablehlo(make_saved("headless"), path, probabilities=True)
    with pytest.raises(ExportError, match=r"gone.png cannot be read \(No such file"):
        export_stablehlo(make_saved(), path, images=[tmp_path / "gone.png"])
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot be written \("):
        export_stablehlo(make_saved(), tmp_path / "file" / "model")
    monkeypatch.setattr(export, "LARGEST_WEIGHTS", 1000)
    with pytest.raises(ExportError, match="GB of weights"):
        export_stablehlo(make_saved(), path)


# -- The comparison --


def test_the_difference_is_relative_to_the_largest_output():
    batches = [np.ones((1, 2, 2, 1)), np.ones((3, 2, 2, 1))]

    def model(pixels):
        return len(pixels) * np.array([[1.0, -4.0]])

    assert largest_difference(model, model, batches) == 0
    assert largest_difference(lambda x: model(x) + 0.6, model, batches) == pytest.approx(0.05)
    assert largest_difference(lambda x: model(x)[:, :1], model, batches) == np.inf
    assert largest_difference(lambda x: model(x).astype("f4"), model, batches) == np.inf
    assert np.isnan(largest_difference(lambda x: model(x) * np.nan, model, batches))
    assert largest_difference(np.zeros_like, np.zeros_like, batches) == 0


def test_random_images_are_of_many_contrasts_and_batch_sizes():
    one, four = random_batches(make_saved(), "symbolic")
    assert one.shape == (1, 16, 16, 3)
    assert four.shape == (4, 16, 16, 3)
    assert four.dtype == np.uint8
    spreads = four.std(axis=(1, 2, 3))
    assert spreads.max() > 2 * spreads.min()
    [two] = random_batches(make_saved("map", "uint16"), 2)
    assert two.shape == (2, 16, 24, 1)
    assert two.max() > 30000
    [floats] = random_batches(make_saved("map", "float32"), 64)
    assert floats.mean() == pytest.approx(0.5, abs=0.01)
    assert floats.std() == pytest.approx(0.2, abs=0.01)


def test_the_last_batch_is_filled_from_its_start():
    images = np.arange(6)[:, None, None, None]
    assert [part.ravel().tolist() for part in in_batches(images, 4)] == [[0, 1, 2, 3], [4, 5, 4, 5]]
    assert in_batches(images[:0], "symbolic") == []


# -- The command --


@needs_flatbuffers
def test_the_command(tmp_path, capsys):
    model = ViT(**SMALL | {"head_zero_init": False})
    variables = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    spec = Preprocessing((0.5,) * 3, (0.25,) * 3, ("ant", "bee", "cat", "dog", "emu"))
    source = save_pretrained(tmp_path / "weights", "huggingface", model, variables, spec, say=None)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    arguments = f"export {source} {tmp_path}/out/model --to stablehlo --probabilities"
    code = tyro.extras.subcommand_cli_from_dict(
        {"export": export_command, "other": export_command},
        args=[*arguments.split(), "--images", str(tmp_path / "red.png"), "--batch_size", "3"],
        use_underscores=True,
    )
    assert code == 0
    out = capsys.readouterr().out
    assert f"{source} -> stablehlo: {tmp_path}/out/model.stablehlo, 0." in out
    assert "Read back and run on 6 images: within " in out
    saved = open_model(source)
    pixels = images_of(saved.model, "uint8", 3)
    expected = np.asarray(jax.nn.softmax(expected_of(saved, pixels)))
    check_close(run_file(tmp_path / "out" / "model.stablehlo", pixels), expected)
