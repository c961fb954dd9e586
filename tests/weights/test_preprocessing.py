"""What files become for published weights: the steps of the systems, read, followed and written."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from weights.random_models import suffix

from vit_jax import load_pretrained, save_pretrained
from vit_jax.config import Config, from_json, to_json
from vit_jax.data.decode import Pixels, decode
from vit_jax.data.source import DataConfig
from vit_jax.inference.saved import open_model
from vit_jax.weights import WeightsError, open_pretrained
from vit_jax.weights.preprocessing import Preprocessing, resizing

# Sizes of pictures whose resized versions have odd and even pixels to spare.
SIZES = [(61, 40), (40, 61), (97, 55), (50, 51), (48, 48), (90, 31), (33, 100), (20, 23)]
FILTERS = ("lanczos", "bilinear", "bicubic", "hamming")


def picture(width, height):
    """Soft colours under hard edges, so that a shift by a fraction of a pixel is seen."""
    rng = np.random.default_rng(width * 1000 + height)
    small = Image.fromarray(rng.integers(0, 256, (7, 5, 3), np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).copy()
    pixels[height // 3 : height // 2, width // 4 :] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def decoded(image, pixels):
    """[h, w, c] as the one decoder makes it of the picture in a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    file.seek(0)
    return decode(file, "picture", pixels)


def resized_and_cut(image, resized, cut, interpolation, rounding):
    """The steps of the systems one by one; `resized` one number for the shorter side, or (h, w)."""
    width, height = image.size
    if isinstance(resized, int):
        short, long = sorted(image.size)
        sides = resized, int(resized * long / short)
        resized = sides if height <= width else sides[::-1]
    image = image.resize(resized[::-1], Image.Resampling[interpolation.upper()])
    whole = {"even": round, "down": math.floor}[rounding]
    top, left = (whole((a - b) / 2) for a, b in zip(resized, cut, strict=True))
    return np.asarray(image.crop((left, top, left + cut[1], top + cut[0])))


@pytest.mark.parametrize("rounding", ["even", "down"])
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("fraction", [1.0, 0.9, 24 / 27, 24 / 29, 24 / 32])
@pytest.mark.parametrize("keep", [True, False])
def test_a_cut_on_whole_pixels_is_resizing_and_then_cutting(
    keep, fraction, interpolation, rounding
):
    pixels = Pixels(24, 24, 3, "uint8", keep, fraction)
    pixels = Pixels(**{**vars(pixels), "crop_rounding": rounding, "interpolation": interpolation})
    side = {0.9: 26, 24 / 27: 27, 24 / 29: 29}.get(fraction, round(24 / fraction))
    for size in SIZES:
        image, whole = picture(*size), side if keep else (side, side)
        expected = resized_and_cut(image, whole, (24, 24), interpolation, rounding)
        found = decoded(image, pixels)
        # Pillow resizes rows or columns first, whichever is less work, and rounds in between.
        assert np.abs(found.astype(int) - expected).max() <= 1, size


def test_half_a_pixel_is_rounded_as_asked():
    image = picture(46, 52)  # 24 x 27 pixels, of which 1.5 are above: 2 or 1
    found = {r: decoded(image, Pixels(24, 24, crop_rounding=r)) for r in ("none", "even", "down")}
    whole = np.asarray(image.resize((24, 27), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(found["even"] - whole[2:26]).max() <= 1
    assert np.abs(found["down"] - whole[1:25]).max() <= 1
    for one, other in (("even", "down"), ("even", "none"), ("down", "none")):
        assert np.abs(found[one].astype(int) - found[other]).mean() > 0.5


def test_a_squashed_centre_without_rounding():
    image = picture(60, 40)
    pixels = Pixels(24, 24, keep_proportions=False, crop_fraction=0.75)
    box = (60 / 8, 40 / 8, 60 * 7 / 8, 40 * 7 / 8)
    expected = image.resize((24, 24), Image.Resampling.BICUBIC, box=box)
    assert np.array_equal(decoded(image, pixels), np.asarray(expected))


def test_timm_covers_a_rectangle_with_rounded_sides():
    image = picture(127, 80)
    pixels = Pixels(16, 24, crop_fraction=0.8, crop_rounding="even")
    # 20 x 30 are to be covered: 20 high, and then 31.75 wide, which is 32.
    expected = resized_and_cut(image, (20, 32), (16, 24), "bicubic", "even")
    assert np.abs(decoded(image, pixels).astype(int) - expected).max() <= 1


def test_a_config_from_before_these_fields_is_read():
    plain = json.loads(to_json(Config()))
    for name in ("crop_rounding", "interpolation"):
        del plain["data"][name]
    assert from_json(json.dumps(plain)) == Config()


def test_later_fields_do_not_change_the_fingerprints_of_what_was_there():
    assert repr(Pixels(24, 32)) == (
        "Pixels(height=24, width=32, channels=3, dtype='uint8', keep_proportions=True, "
        "crop_fraction=1.0, background='white', max_pixels=50000000, found_grey=False)"
    )
    assert repr(Pixels(2, 2, interpolation="lanczos")).endswith("False, interpolation='lanczos')")
    assert repr(Pixels(2, 2, crop_rounding="even")).endswith("False, crop_rounding='even')")


STEPS = {
    "ViTImageProcessor": ({}, ("squash", 1.0, "bilinear")),
    "ViTFeatureExtractor": ({"size": 24, "resample": 3}, ("squash", 1.0, "bicubic")),
    "ViTImageProcessorFast": ({"size": [24, 24], "resample": 1}, ("squash", 1.0, "lanczos")),
    "DeiTFeatureExtractor": ({"size": 32, "crop_size": 24}, ("squash", 0.75, "bicubic")),
    "BitImageProcessor": (
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}},
        ("crop", 0.75, "bicubic"),
    ),
    "CLIPFeatureExtractor": ({"size": 24, "crop_size": 24}, ("crop", 1.0, "bicubic")),
}


def with_processor(folder, **steps):
    (folder / "preprocessor_config.json").write_text(json.dumps(steps))
    return folder


@pytest.mark.parametrize("kind", STEPS)
def test_the_steps_of_image_processors_are_read(kind, saved):
    steps, expected = STEPS[kind]
    key = "feature_extractor_type" if kind.endswith("Extractor") else "image_processor_type"
    found = open_pretrained(with_processor(saved("huggingface"), **{key: kind}, **steps))
    read = found.preprocessing
    assert (read.resize, read.crop_fraction, read.interpolation) == expected
    assert (read.crop_rounding, read.notes) == ("down", ())


@pytest.mark.parametrize(
    ("steps", "note"),
    [
        ({"image_processor_type": "FancyImageProcessor"}, "FancyImageProcessor is not known here"),
        ({"do_resize": False}, "do_resize=false: pictures of another size"),
        ({"do_pad": True}, "do_pad=true: nothing is padded"),
        ({"resample": 7}, "resample=7 is not known here: bilinear"),
        ({"size": {"longest_edge": 24}}, "size={'longest_edge': 24} cannot be had here"),
        ({"size": {"shortest_edge": 24}}, "without do_center_crop: the centre is cut out here"),
        (
            {"size": 20, "do_center_crop": True},
            "crop_size={'height': 24, 'width': 24} cannot be had here",
        ),
        ({"size": 32}, "is not the 24x24 of the model: scaled to that"),
        (
            {"size": {"height": 32, "width": 30}, "do_center_crop": True, "crop_size": 24},
            "cannot be had here: pictures are resized straight to 24x24",
        ),
    ],
    ids=str,
)
def test_steps_that_cannot_be_had_are_said(steps, note, saved):
    (said,) = open_pretrained(with_processor(saved("huggingface"), **steps)).preprocessing.notes
    assert note in said


@pytest.mark.parametrize("steps", [{"size": 2.5}, {"size": {"height": 3, "width": None}}])
def test_steps_that_make_no_sense_are_an_error(steps, saved):
    with pytest.raises(WeightsError, match="not as that has them"):
        open_pretrained(with_processor(saved("huggingface"), **steps))


def test_a_missing_image_processor_is_said(saved):
    folder = saved("huggingface")
    (folder / "preprocessor_config.json").unlink()
    found = open_pretrained(folder).preprocessing
    assert found.notes[0].startswith("no preprocessor_config.json: mean and std of 0.5, and resiz")
    assert (found.mean, found.resize, found.interpolation) == ((0.5,) * 3, "squash", "bilinear")


CASES = [
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 24, "resample": 2},
    {"image_processor_type": "DeiTImageProcessor", "size": 29, "crop_size": 24},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 27}, "crop_size": 24},
    {"image_processor_type": "CLIPImageProcessor", "size": 24, "crop_size": 24, "resample": 2},
    {"image_processor_type": "ViTImageProcessor", "size": 24, "rescale_factor": 1 / 127.5},
    {"image_processor_type": "ViTImageProcessor", "size": 24, "do_rescale": False},
]


def close(folder):
    """Whether the pixels are those of transformers, but for some that are rounded otherwise."""
    transformers = pytest.importorskip("transformers", reason="is compared with; Python 3.11 only")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = open_model(folder)
    for size in SIZES:
        image = picture(*size)
        expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        found = (decoded(image, model.pixels()) / 255 - model.mean) / model.std
        off = np.abs(found - expected) * np.array(model.std) * 255
        if off.mean() > 0.15:
            return False
    return True


@pytest.mark.parametrize("steps", CASES, ids=str)
def test_pixels_are_those_of_transformers(steps, saved):
    assert close(with_processor(saved("huggingface"), **steps))


WRITTEN = [
    {"crop_rounding": "down"},
    {"crop_rounding": "down", "crop_fraction": 24 / 29, "interpolation": "bilinear"},
    {"resize": "squash", "interpolation": "lanczos"},
    {"resize": "squash", "crop_fraction": 0.75, "crop_rounding": "down"},
]


@pytest.mark.parametrize("fields", WRITTEN, ids=str)
def test_what_is_written_for_transformers_is_what_it_does(fields, random_model, tmp_path):
    given = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), **fields)
    lines = []
    model, variables = random_model()
    save_pretrained(tmp_path / "m", "huggingface", model, variables, given, say=lines.append)
    assert lines == []
    _, _, spec = load_pretrained(tmp_path / "m", say=None)
    assert resizing(spec) == {**resizing(given), "crop_rounding": "down"}
    assert close(tmp_path / "m")


@pytest.mark.parametrize(
    ("layout", "fields", "size", "line"),
    [
        ("huggingface", {"crop_rounding": "even"}, (24, 24), "crop_rounding='even' becomes 'down'"),
        ("huggingface", {}, (24, 32), "resize='crop' to 24x32 becomes 'squash' there"),
        ("timm", {"crop_rounding": "down"}, (24, 24), "crop_rounding='down' becomes 'even'"),
        ("timm", {"resize": "squash", "crop_fraction": 0.5}, (24, 32), "'none' becomes 'even'"),
    ],
    ids=str,
)
def test_resizing_that_has_no_place_is_said(layout, fields, size, line, random_model, tmp_path):
    lines = []
    model, variables = random_model(image_size=size, norm_eps=1e-6)
    given = Preprocessing((0.5,) * 3, (0.5,) * 3, **fields)
    save_pretrained(tmp_path / "m", layout, model, variables, given, say=lines.append)
    assert len(lines) == 1
    assert line in lines[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("crop", 0.875, "bicubic")),
        ({"crop_pct": None, "crop_mode": None}, ("crop", 0.875, "bicubic")),
        ({"crop_pct": 0.9, "interpolation": "bilinear"}, ("crop", 0.9, "bilinear")),
        ({"crop_pct": 1, "crop_mode": "squash"}, ("squash", 1.0, "bicubic")),
    ],
    ids=str,
)
def test_what_timm_says_is_read(change, expected, saved):
    folder = saved("timm")
    config = json.loads((folder / "config.json").read_text())
    for name in ("crop_pct", "crop_mode", "interpolation"):
        del config["pretrained_cfg"][name]
    config["pretrained_cfg"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    found = open_pretrained(folder).preprocessing
    assert (found.resize, found.crop_fraction, found.interpolation) == expected
    assert (found.crop_rounding, found.notes) == ("even", ())


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"crop_mode": "border"}, "crop_mode='border' is not known here: pictures are squashed"),
        ({"interpolation": "random"}, "interpolation='random' is not known here: bicubic is taken"),
        ({"crop_pct": 1.2}, "crop_pct=1.2: there pictures get a border"),
    ],
    ids=str,
)
def test_what_timm_does_and_we_do_not_is_said(change, note, saved):
    folder = saved("timm")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    found = open_pretrained(folder).preprocessing
    assert [line for line in found.notes if line.startswith(note)] == list(found.notes) != []
    decoded(picture(61, 40), open_model(folder).pixels())


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_fraction": 0.9, "crop_rounding": "even", "interpolation": "bilinear"},
        {"resize": "squash", "crop_fraction": 0.75, "crop_rounding": "even"},
    ],
    ids=str,
)
def test_timm_gets_back_what_was_written(fields, random_model, tmp_path):
    given = Preprocessing((0.5,) * 3, (0.5,) * 3, **fields)
    model, variables = random_model(norm_eps=1e-6)
    lines = []
    save_pretrained(tmp_path / "m", "timm", model, variables, given, say=lines.append)
    assert lines == []
    assert resizing(load_pretrained(tmp_path / "m", say=None)[2]) == resizing(given)


@pytest.mark.parametrize(
    ("width", "patch", "side", "expected", "said"),
    [
        (768, 16, 14, (0.875, "bilinear"), "SWAG_LINEAR"),
        (768, 16, 24, (1.0, "bicubic"), None),
        (768, 32, 7, (0.875, "bilinear"), None),
        (1024, 16, 14, (224 / 242, "bilinear"), "shorter side to 242"),
        (1024, 16, 32, (1.0, "bicubic"), None),
        (1280, 14, 37, (1.0, "bicubic"), None),
        (1280, 14, 16, (1.0, "bicubic"), None),
        (64, 8, 3, (0.875, "bilinear"), "shorter side to 27, bilinear, assumed"),
    ],
)
def test_torchvision_resizes_as_the_weights_of_that_size(
    width, patch, side, expected, said, saved, tmp_path
):
    # Zeros in the shapes that tell a published size; nothing else is looked at.
    arrays = load_file(saved("torchvision"))
    shapes = {name: value.shape for name, value in arrays.items()}
    blocks = {name for name in shapes if name.startswith("encoder.layers.")}
    wide = {name: np.zeros([width if n == 64 else n for n in shapes[name]]) for name in blocks}
    wide |= {
        "conv_proj.weight": np.zeros((width, 3, patch, patch), np.float16),
        "encoder.pos_embedding": np.zeros((1, side * side + 1, width), np.float16),
    }
    save_file({k: v.astype(np.float16) for k, v in wide.items()}, tmp_path / "wide.safetensors")
    found = open_pretrained(tmp_path / "wide.safetensors").preprocessing
    assert (found.crop_fraction, found.interpolation) == expected
    assert (found.resize, found.crop_rounding) == ("crop", "even")
    notes = [note for note in found.notes if note.startswith("resizing:")]
    assert len(notes) == (said is not None)
    assert (said or "") in "".join(notes)


@pytest.mark.parametrize("layout", ["huggingface", "timm", "torchvision", "google"])
def test_a_model_is_used_with_the_resizing_of_its_file(layout, saved):
    path = saved(layout)
    _, _, spec = load_pretrained(path, say=None)
    model = open_model(path)
    assert isinstance(model.config.data, DataConfig)
    assert resizing(model.config.data) == resizing(spec)
    pixels = model.pixels()
    assert pixels.keep_proportions == (spec.resize == "crop")
    assert pixels.crop_fraction == spec.crop_fraction
    assert (pixels.crop_rounding, pixels.interpolation) == (
        spec.crop_rounding,
        spec.interpolation,
    )
    assert suffix(layout) in str(path)
