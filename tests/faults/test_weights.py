"""Files of weights that are not what they seem, rows W1 to W5 of the table of faults."""

import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
from faults.bait import Bomb, refused
from weights.random_models import save_random

from vit_jax.data.archive import unpacked
from vit_jax.data.source import DataError
from vit_jax.data.stored import describe
from vit_jax.weights import WeightsError, open_pretrained
from vit_jax.weights.files import open_tensors


def bombs(marker):
    """Pickles by name: as PyTorch wrote files once, as it does now, and as NumPy would."""
    content = pickle.dumps(Bomb(marker))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model/data.pkl", content)
        archive.writestr("model/version", "3\n")
    return {"model.pt": content, "model.pkl": content, "m.npz": content, "z.pt": packed.getvalue()}


@pytest.mark.fault(
    "A pickle that would write a file is given as weights, in four guises",
    "Nothing in it runs, and the message says what to save instead",
)
@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "m.npz", "z.pt"])
def test_w1_a_pickle_is_never_unpickled(name, tmp_path, capsys):
    pytest.importorskip("torch", reason="reads its own files; Python 3.11 only")
    path, marker = tmp_path / name, tmp_path / "executed"
    path.write_bytes(bombs(marker)[name])
    message = refused(capsys, "summary", path)
    assert message.startswith(f"{path} holds more than tensors, or is damaged; nothing in it was")
    assert message.endswith("instead: torch.save(model.state_dict(), 'weights.pth')")
    assert not marker.exists()


@pytest.mark.fault(
    "The same pickles are given where PyTorch is not installed",
    "Nothing in them runs, and the message holds the command to convert them",
)
@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "m.npz", "z.pt"])
def test_w1_without_pytorch_the_way_to_convert_is_told(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path, marker = tmp_path / name, tmp_path / "executed"
    path.write_bytes(bombs(marker)[name])
    with pytest.raises(WeightsError) as error:
        open_pretrained(path)
    message = str(error.value)
    assert message.startswith(f"{path} is a PyTorch file, which only PyTorch can read: pip install")
    assert "or convert it where that is installed, with python -c" in message
    assert f"s.save_file(torch.load('{name}', weights_only=True), '{path.stem}.safete" in message
    assert not marker.exists()


@pytest.mark.fault(
    "An npz file holds Python objects",
    "It is refused by the name of the array, and they are not unpickled",
)
@pytest.mark.parametrize("dtype", [object, [("a", object), ("b", "f4")]], ids=["plain", "fields"])
def test_w2_an_npz_with_objects_is_refused(dtype, tmp_path, capsys):
    marker, path = tmp_path / "executed", tmp_path / "a.npz"
    weights = np.zeros(1, dtype)
    weights[0] = Bomb(marker) if dtype is object else (Bomb(marker), 0)
    np.savez(path, weights=weights)
    assert refused(capsys, "summary", path) == (
        f"{path}: weights holds Python objects, which are never unpickled here: save arrays of "
        "numbers"
    )
    assert not marker.exists()


@pytest.mark.fault(
    "A web page, a git-lfs pointer, nothing or a picture has the name of weights",
    "It is said what the file is, with its size, and what to do",
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<!DOCTYPE html>\n<html><body>Not found</body></html>",
            "is an HTML page of 51 bytes, not weights: download the file itself",
        ),
        (b"\n<html>", "is an HTML page of 7 bytes, not weights: download the file itself"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a",
            "is a git-lfs pointer of 58 bytes, not weights: run `git lfs pull`",
        ),
        (b"", "(0 bytes) holds no weights: expected .safetensors, .npz, or a PyTorch state_dict"),
        (b"GIF89a", "(6 bytes) holds no weights: expected .safetensors, .npz, or a PyTorch"),
        (b"(dp0\n.", "(6 bytes) holds no weights: expected .safetensors, .npz, or a PyTorch"),
    ],
    ids=["html", "html again", "lfs", "empty", "gif", "old pickle"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.npz"])
def test_w3_what_is_no_weights_at_all(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert refused(capsys, "summary", tmp_path / name).startswith(f"{tmp_path / name} {message}")


@pytest.mark.fault(
    "An npz file would unpack to a hundred times its size and more",
    "It is refused by what its directory says, before it is unpacked",
)
def test_w4_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, a=np.zeros(10_000_000, np.float32))
    size = path.stat().st_size
    assert size < 100_000
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing of it is read
    message = rf"{path} would unpack from {size:,} bytes to 40,000,1\d\d: no weights compress so"
    with pytest.raises(WeightsError, match=message):
        open_tensors(path)


@pytest.mark.fault(
    "An npz file, of weights or of images, or an archive of images is packed by LZMA, whose header "
    "asks for gigabytes",
    "It is refused by what its directory says, before any memory is taken",
)
def test_w4_a_zip_packed_by_lzma_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    array = io.BytesIO()
    np.save(array, np.zeros((4, 2, 2, 3), np.uint8))
    for name in ("a.npz", "a.zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("images.npy", array.getvalue())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing of it is read
    with pytest.raises(
        WeightsError, match=r"a\.npz: images\.npy is packed by method 14 of the ZIP"
    ):
        open_tensors(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz, key 'images' is packed by method 14 of the ZIP"):
        describe(tmp_path / "a.npz", "images")
    with pytest.raises(DataError, match="is packed by LZMA"):
        unpacked(tmp_path / "a.zip")


@pytest.mark.fault(
    "The header of an array in an npz file promises more than there is",
    "It is refused as cut short, and no memory is reserved for it",
)
def test_w4_a_header_that_promises_more_than_there_is(tmp_path):
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"shape": (10**9,), "fortran_order": False, "descr": "<f4"}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", array.getvalue() + bytes(16))
    with pytest.raises(WeightsError, match=r"a\.npz: a is cut short"):
        open_tensors(tmp_path / "a.npz")


@pytest.mark.fault(
    "A safetensors file is cut short, in its arrays or in its header",
    "Both sizes are named, with what to do",
)
@pytest.mark.parametrize("length", [-5, 400, 40, 9])
def test_w5_a_truncated_safetensors_names_both_sizes(length, tmp_path, capsys):
    path = save_random(tmp_path, "torchvision")
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    header = 8 + int.from_bytes(whole[:8], "little")
    promised, there = len(whole) if length < 0 else header, path.stat().st_size
    assert refused(capsys, "summary", path) == (
        f"{path} is cut short: its header promises {promised:,} bytes, there are {there:,}; copy "
        "or download it again"
    )


@pytest.mark.fault(
    "An npz file is cut short",
    "It is called damaged or incomplete, with what to do",
)
def test_w5_a_truncated_npz(tmp_path, capsys):
    path = save_random(tmp_path, "google")
    path.write_bytes(path.read_bytes()[:-200])
    message = refused(capsys, "summary", path)
    assert message.startswith(f"{path} is a damaged or incomplete archive (")
    assert message.endswith("): copy or download it again")


@pytest.mark.fault(
    "One bit of an array in an npz file is flipped",
    "The array is named, and its checksum as the reason",
)
def test_w5_a_flipped_bit_in_an_npz_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{path}: a cannot be read: Bad CRC-32"):
        open_tensors(path).read("a")
