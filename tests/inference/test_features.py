"""Features: the model's own numbers, and the file that the command writes."""

import os

import jax
import numpy as np
import pytest
import tyro
from inference.small_models import outputs_of, small_model

from vit_jax.commands import features as command
from vit_jax.data.source import DataError
from vit_jax.inference import features as module
from vit_jax.inference import images as image_module
from vit_jax.inference import saved as saved_module
from vit_jax.inference.features import features_of, tokens_size
from vit_jax.inference.images import find_images


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """One compiles fastest; many are tested with `forward`."""
    monkeypatch.setattr(image_module, "select_devices", lambda device: jax.local_devices()[:1])


FILES = [f"photos/{place:02}.png" for place in range(4)]


def run(*arguments):
    """The exit code of `vit-jax features MODEL …`."""
    return tyro.extras.subcommand_cli_from_dict(
        {"features": command.features, "other": len},
        args=["features", "MODEL", *map(str, arguments)],
        use_underscores=True,
    )


def test_features_are_the_models_in_order_without_bad_files(photos):
    found = features_of(small_model(), find_images(["photos"]), tokens=True, batch_size=2)
    expected = outputs_of(small_model(), photos)
    np.testing.assert_allclose(found.pooled, expected["pooled"], rtol=0, atol=5e-6)
    np.testing.assert_allclose(found.tokens, expected["tokens"], rtol=0, atol=5e-6)
    assert np.ptp(found.pooled, axis=0).max() > 0.05
    assert (found.indices.tolist(), list(found.files)) == ([0, 1, 3, 4], FILES)
    assert found.bad == {"photos/01b.jpg": "is not an image (it is empty)"}


def test_the_size_of_the_tokens_is_known_before(photos):
    found = features_of(small_model(), find_images(["photos"]), tokens=True)
    assert found.tokens.nbytes == tokens_size(small_model(), 4) == 4 * (1 + 2 * 3) * 16 * 4


@pytest.mark.parametrize("tokens", [False, True])
def test_the_file_holds_arrays_and_names_without_pickle(photos, capsys, tokens):
    assert run("photos", "--out=found.npz", *["--tokens"] * tokens) == 0
    out, err = capsys.readouterr()
    assert out.startswith("pooled [4, 16]" + ", tokens [4, 7, 16]" * tokens)
    assert err.splitlines()[0] == "photos/01b.jpg is not an image (it is empty): skipped"
    expected = features_of(small_model(), find_images(["photos"]), tokens=True)
    with np.load("found.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"pooled", "files", "bad"} | ({"tokens"} if tokens else set())
        np.testing.assert_array_equal(arrays["pooled"], expected.pooled)
        assert arrays["files"].tolist() == FILES
        assert arrays["bad"].tolist() == ["photos/01b.jpg"]
        if tokens:
            np.testing.assert_array_equal(arrays["tokens"], expected.tokens)
            assert arrays["tokens"].dtype == np.float32


def test_without_bad_files_there_is_an_empty_array_of_text(photos):
    assert run("photos/00.png", "--out=found.npz") == 0
    with np.load("found.npz", allow_pickle=False) as arrays:
        assert arrays["bad"].shape == (0,)
        assert arrays["bad"].dtype.kind == "U"


def test_if_no_image_can_be_read_it_exits_with_1_and_writes_nothing(photos, capsys):
    assert run("photos/01b.jpg", "--out=found.npz") == 1
    assert "none of the 1 images" in capsys.readouterr().err
    assert os.listdir() == ["photos"]


def test_a_full_disk_leaves_nothing_and_what_was_there_stays(photos, monkeypatch):
    def full(*arguments, **arrays):
        raise OSError(28, "No space left on device")

    with open("before.npz", "w") as file:
        file.write("before")
    with pytest.raises(DataError, match=r"--out before\.npz: is there already; name another"):
        run("photos", "--out=before.npz")
    monkeypatch.setattr(module.np, "savez", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left"):
        run("photos", "--out=found.npz")
    with open("before.npz") as file:
        assert file.read() == "before"
    assert sorted(os.listdir()) == ["before.npz", "photos"]


def test_another_ending_is_an_error_before_anything_is_read(photos, monkeypatch):
    monkeypatch.setattr(saved_module, "open_model", pytest.fail)
    with pytest.raises(DataError, match=r"should end in \.npz"):
        run("photos", "--out=found.npy")


def test_large_tokens_are_said_before(photos, capsys, monkeypatch):
    monkeypatch.setattr(module, "tokens_size", lambda saved, number: number * 10**9)
    assert run("photos", "--out=found.npz", "--tokens") == 0
    assert capsys.readouterr().err.startswith("The tokens of 5 images take 5.0 GB\n")


def test_a_model_that_pools_nothing_is_refused(photos):
    with pytest.raises(DataError, match="pool='none'"):
        features_of(small_model(pool="none"), find_images(["photos"]))
