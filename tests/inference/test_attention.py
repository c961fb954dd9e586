"""Attention of images by a saved model: the same numbers as transformers', and the maps of them."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from inference.small_models import small_model, write_pictures
from PIL import Image

from vit_jax.inference.attention import Attention, attention_of
from vit_jax.inference.images import Bad, find_images
from vit_jax.inference.saved import open_model
from vit_jax.models import look_inside


def drawn(path, width=300, height=240):
    """Discs of many colours on a slope: every patch is another."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1)
    for seed in range(6):
        a, b, radius, *colour = np.random.default_rng(seed).integers(0, 240, 6)
        image[(x - a) ** 2 + (y - b) ** 2 < (20 + radius // 4) ** 2] = colour
    Image.fromarray(image.astype(np.uint8)).save(path)
    return path


def seen_of(saved, *paths, **options):
    return list(attention_of(saved, find_images([str(path) for path in paths]), **options))


@pytest.fixture(scope="module")
def real_weights():
    if "VIT_JAX_TEST_DATA" not in os.environ:
        pytest.skip("VIT_JAX_TEST_DATA, the folder of real data, is not set")
    return Path(os.environ["VIT_JAX_TEST_DATA"]) / "weights/vit_tiny_patch16_224_hf"


def test_the_weights_are_those_of_transformers(real_weights, tmp_path):
    """Every block and head of the real ViT-Ti; rows sum to 1; rollout by the paper's formula."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    saved = open_model(real_weights)
    (seen,) = seen_of(saved, drawn(tmp_path / "drawn.png"))
    theirs = transformers.ViTForImageClassification.from_pretrained(
        real_weights, attn_implementation="eager"
    ).eval()
    pixels = (seen.image / 255 - np.array(saved.mean)) / np.array(saved.std)
    with torch.no_grad():
        out = theirs(
            torch.tensor(np.moveaxis(pixels, -1, 0)[None], dtype=torch.float32),
            output_attentions=True,
        )
    expected = np.stack([layer[0].numpy() for layer in out.attentions])
    assert seen.weights.shape == expected.shape == (12, 3, 197, 197)
    np.testing.assert_allclose(seen.weights, expected, atol=1e-5)
    np.testing.assert_allclose(seen.weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(seen.maps.reshape(12, 3, 196), expected[:, :, 0, 1:], atol=1e-5)
    np.testing.assert_allclose(seen.average.ravel(), expected[:, :, 0, 1:].mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(
        seen.probabilities, torch.softmax(out.logits, -1)[0].numpy(), atol=1e-5
    )
    through = np.eye(197)
    for layer in expected.astype(np.float64):
        through = (0.5 * layer.mean(0) + 0.5 * np.eye(197)) @ through
    np.testing.assert_allclose(seen.rollout.ravel(), through[0, 1:], atol=1e-5)


def inside(saved, image):
    normalised = (image[None] / np.float32(255) - np.float32(saved.mean)) / np.float32(saved.std)
    return look_inside(saved.model, {"params": saved.params}, normalised)


@pytest.mark.parametrize(
    ("fields", "query", "row"),
    [
        ({}, None, "first"),
        ({"pool": "gap"}, None, "patches"),
        ({"pool": "gap", "class_token": True}, "class", "first"),
        ({"num_registers": 2}, (1, 2), -1),
        ({"num_classes": None}, "mean", "patches"),
    ],
    ids=str,
)
def test_the_maps_are_the_querys_and_leave_other_tokens_out(fields, query, row, tmp_path):
    saved = small_model(depth=2, **fields)
    write_pictures(tmp_path, 2)
    for seen in seen_of(saved, tmp_path, query=query):
        weights = np.asarray(inside(saved, seen.image).attention[:, 0])
        prefix = saved.model.num_prefix_tokens
        np.testing.assert_allclose(seen.weights, weights, atol=1e-6)
        if row == "first":
            rows = weights[:, :, 0]
        elif row == "patches":
            rows = weights[:, :, prefix:].mean(2)
        else:
            rows = weights[:, :, row]
        np.testing.assert_allclose(seen.maps, rows[..., prefix:].reshape(2, 2, 2, 3), atol=1e-6)
        assert (seen.probabilities is None) == (saved.model.num_classes is None)


def test_with_map_pooling_the_rollout_ends_in_the_learned_query(tmp_path):
    saved = small_model(depth=2, pool="map")
    write_pictures(tmp_path, 1)
    (seen,) = seen_of(saved, tmp_path)
    found = inside(saved, seen.image)
    through = np.eye(6)
    for layer in np.asarray(found.attention[:, 0], np.float64):
        through = (0.5 * layer.mean(0) + 0.5 * np.eye(6)) @ through
    expected = np.asarray(found.pool[0]).mean(0) @ through
    np.testing.assert_allclose(seen.rollout.ravel(), expected, atol=1e-6)
    (other,) = seen_of(saved, tmp_path, query="mean")
    np.testing.assert_allclose(other.rollout.ravel(), through.mean(0), atol=1e-6)


def test_the_picture_is_the_same_part_of_the_file_in_its_own_pixels(tmp_path):
    """Of a crop, the part that is cut out; small ones enlarged, so that an overlay can be seen."""
    saved = small_model()
    crop = dataclasses.replace(saved.config.data, resize="crop")
    saved = dataclasses.replace(saved, config=dataclasses.replace(saved.config, data=crop))
    image = np.zeros((400, 900, 3), np.uint8)
    image[:, 150:750] = np.arange(600)[None, :, None] * 255 // 600
    Image.fromarray(image).save(tmp_path / "wide.png")
    Image.fromarray(image[::40, ::40]).save(tmp_path / "tiny.png")
    wide, tiny = seen_of(saved, tmp_path / "wide.png", tmp_path / "tiny.png")
    assert (wide.image.shape, wide.picture.shape) == ((8, 12, 3), (400, 600, 3))
    np.testing.assert_array_equal(wide.picture, image[:, 150:750])
    assert (tiny.image.shape, tiny.picture.shape) == ((8, 12, 3), (149, 224, 3))
    large = np.zeros((2000, 3600, 3), np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    (reduced,) = seen_of(saved, tmp_path / "large.png")
    assert reduced.picture.shape == (1067, 1600, 3)


def test_bad_files_keep_their_place(tmp_path):
    saved = small_model()
    write_pictures(tmp_path, 2)
    (tmp_path / "00a.png").write_bytes(b"<html>no</html>")
    first, bad, last = seen_of(saved, tmp_path)
    assert isinstance(first, Attention)
    assert isinstance(last, Attention)
    assert isinstance(bad, Bad)
    assert bad.reason.startswith("is not an image (an HTML page of 15 bytes")


def test_a_query_the_model_does_not_have_is_refused(tmp_path):
    write_pictures(tmp_path, 1)
    with pytest.raises(ValueError, match="all tokens are patches; use 'mean' or"):
        seen_of(small_model(pool="gap"), tmp_path, query="class")
    with pytest.raises(ValueError, match=r"patches go from \(0, 0\) to \(1, 2\)"):
        seen_of(small_model(), tmp_path, query=(2, 0))


def command(capsys, *arguments):
    from vit_jax import cli

    code = cli.main(["attention", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def weights(tmp_path):
    from vit_jax import save_pretrained
    from vit_jax.weights.layout import Preprocessing

    saved = small_model(image_size=(8, 8))
    preprocessing = Preprocessing(saved.mean, saved.std, saved.class_names)
    variables = {"params": jax.tree.map(np.asarray, saved.params)}
    save_pretrained(tmp_path / "weights", "huggingface", saved.model, variables, preprocessing)
    return tmp_path / "weights"


def test_the_command_draws_and_writes_under_names_of_their_own(weights, tmp_path, capsys):
    write_pictures(tmp_path / "a", 1)
    write_pictures(tmp_path / "b", 1)
    (tmp_path / "b/broken.png").write_bytes(b"")
    out = tmp_path / "out"
    code, said, errors = command(capsys, weights, tmp_path / "a", tmp_path / "b", "--out", out)
    assert code == 0
    assert errors.endswith(
        "broken.png is not an image (it is empty): skipped\n1 of 3 images could not be read\n"
    )
    endings = (".png", "-average.png", "-rollout.png", ".npz")
    expected = {f"{name}{ending}" for name in ("00", "00.png") for ending in endings}
    assert {path.name for path in out.iterdir()} == expected
    assert len(said.splitlines()) == 2
    with np.load(out / "00.npz") as arrays:
        assert arrays["weights"].shape == (1, 2, 5, 5)
        np.testing.assert_allclose(arrays["maps"].mean((0, 1)), arrays["average"], rtol=1e-6)
        assert arrays["class_names"].tolist() == ["ant", "bee", "cat"]
        best = arrays["class_names"][arrays["probabilities"].argmax()]
        assert f"00.png: {best} ({arrays['probabilities'].max():.0%}) -> {out / '00'}.png" in said
    with Image.open(out / "00-average.png") as overlay:
        assert overlay.size == (224, 224)

    code, _, _ = command(capsys, weights, tmp_path / "a", "--out", tmp_path / "n", "--no_raw")
    assert code == 0
    assert not (tmp_path / "n/00.npz").exists()


def test_nothing_is_written_over(weights, tmp_path, capsys, monkeypatch):
    """Neither photographs beside the results, nor earlier results, nor each other's."""
    photos = tmp_path / "photos"
    write_pictures(photos, 1)
    (photos / "00.png").rename(photos / "a.png")
    for name in ("a-average.png", "B.png", "b.jpg"):
        Image.open(photos / "a.png").save(photos / name)
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    code, _, errors = command(capsys, weights, photos, "--out", photos)
    assert code == 2
    assert "would be written over: name another folder" in errors
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before

    code, _, _ = command(capsys, weights, photos, "--out", tmp_path / "out")
    assert code == 0
    assert len(list((tmp_path / "out").iterdir())) == 16
    assert command(capsys, weights, photos / "a.png", "--out", tmp_path / "out")[0] == 2

    monkeypatch.chdir(tmp_path)
    for folder in ("attention", "attention-2"):
        assert command(capsys, weights, photos / "a.png")[0] == 0
        assert (tmp_path / folder / "a.png").exists()
    code, _, errors = command(capsys, weights, photos / "a.png", "--out", weights / "config.json")
    assert (code, "is a file; name a folder" in errors) == (2, True)
    code, _, errors = command(capsys, weights, photos / "a.png", "--out", "/proc/none")
    assert (code, "/proc/none: cannot be written" in errors) == (2, True)


def test_wrong_commands_say_what_would_be_right(weights, tmp_path, capsys):
    write_pictures(tmp_path / "a", 1)
    code, _, errors = command(capsys, weights, tmp_path / "a", "--query", "head")
    assert code == 2
    assert "--query head: use class, mean, or ROW,COLUMN" in errors
    code, _, errors = command(capsys, weights, tmp_path / "none.jpg")
    assert code == 2
    assert "none.jpg: there is no such file or folder" in errors
    (tmp_path / "bad.png").write_bytes(b"")
    code, said, errors = command(capsys, weights, tmp_path / "bad.png", "--out", tmp_path / "o")
    assert (code, said) == (1, "")
    assert not (tmp_path / "o").exists()
