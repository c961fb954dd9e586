"""Files that are not what they seem: each a message that names file, finding and remedy."""

import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vit_jax import load_pretrained
from vit_jax.weights import WeightsError
from vit_jax.weights.files import open_tensors, read_json


def torch_or_skip():
    return pytest.importorskip("torch", reason="reads its own files; Python 3.11 only")


@pytest.fixture
def tensors(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2, np.float32)}, path)
    return path


def test_shapes_come_first_and_values_when_asked_for(tensors):
    found = open_tensors(tensors)
    assert found.shapes == {"a": (2, 3), "b": (2,)}
    assert np.array_equal(found.read("a"), np.arange(6.0).reshape(2, 3))


def test_what_a_file_is_its_content_says_not_its_name(tensors, tmp_path):
    odd = tensors.rename(tmp_path / "weights.npz")
    assert open_tensors(odd).shapes == {"a": (2, 3), "b": (2,)}


@pytest.mark.parametrize("first", [b"\x80", b"PK"], ids=["pickle", "zip"])
def test_a_length_that_begins_as_another_file_does(first, tmp_path):
    path = tmp_path / "a.safetensors"
    for number in range(2**15):  # the length is a multiple of 8
        save_file({"a": np.ones(2)}, path, metadata={"padding": " " * 8 * number})
        if path.read_bytes().startswith(first):
            break
    assert path.read_bytes().startswith(first)
    assert open_tensors(path).shapes == {"a": (2,)}


def test_bfloat16_is_read_from_safetensors_and_npz(tmp_path):
    value = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    save_file({"a": value}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", a=value)
    for name in ("a.safetensors", "a.npz"):
        found = open_tensors(tmp_path / name).read("a")
        assert found.astype(np.float32).tolist() == [1.5, -2.25]


def test_w1_a_pickle_is_never_unpickled(tmp_path):
    torch_or_skip()
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return open, (str(marker), "w")

    for name in ("model.pt", "model.bin", "model.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(WeightsError, match=r"nothing in it was run .*state_dict\(\)"):
            load_pretrained(tmp_path / name)
    assert not marker.exists()


def test_w1_without_pytorch_the_way_to_convert_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "model.pth").write_bytes(pickle.dumps({}))
    with pytest.raises(WeightsError, match=r"pip install torch, or convert .*weights_only=True"):
        load_pretrained(tmp_path / "model.pth")


def test_a_state_dict_is_read_also_where_a_training_script_wrapped_it(tmp_path):
    torch = torch_or_skip()
    weights = {"w": torch.arange(3, dtype=torch.bfloat16)}
    for number, content in enumerate((weights, {"state_dict": weights, "epoch": 3})):
        torch.save(content, tmp_path / f"{number}.pth")
        found = open_tensors(tmp_path / f"{number}.pth")
        assert found.shapes == {"w": (3,)}
        assert found.read("w").tolist() == [0, 1, 2]
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="expected a state_dict"):
        open_tensors(tmp_path / "list.pth")


def test_w2_an_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match=r"a\.npz: weights holds Python objects"):
        open_tensors(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "an HTML page of 51 bytes"),
        (b"\n<html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "git lfs pull"),
        (b"", r"\(0 bytes\) holds no weights"),
        (b"GIF89a, and so on", "holds no weights: expected .safetensors, .npz"),
    ],
    ids=["html", "html again", "lfs", "empty", "gif"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.npz"])
def test_w3_what_is_no_weights_at_all(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}.*{message}"):
        load_pretrained(tmp_path / name)


def test_w4_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(10_000_000, np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with pytest.raises(WeightsError, match=r"would unpack from .* to 40,000,1\d\d"):
        open_tensors(tmp_path / "bomb.npz")


def test_w4_a_header_that_promises_more_than_there_is(tmp_path):
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"shape": (10**9,), "fortran_order": False, "descr": "<f4"}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", array.getvalue() + bytes(16))
    with pytest.raises(WeightsError, match=r"a\.npz: a is cut short"):
        open_tensors(tmp_path / "a.npz")


def test_w5_a_truncated_safetensors_names_both_sizes(tensors):
    whole = tensors.read_bytes()
    for length in (len(whole) - 5, 40, 9):
        tensors.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=rf"some.safetensors is cut short.* {length};"):
            open_tensors(tensors)


def test_w5_a_truncated_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="damaged or incomplete archive"):
        open_tensors(path)


def test_w5_a_flipped_bit_in_an_npz_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="a cannot be read: Bad CRC-32"):
        open_tensors(path).read("a")


def test_shards_are_read_as_one(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": np.zeros(3)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"

    def point(**where):
        index.write_text(json.dumps({"weight_map": where}))

    point(a="one.safetensors", b="two.safetensors")
    found = open_tensors(index)
    assert found.shapes == {"a": (2,), "b": (3,)}
    assert found.read("b").tolist() == [0, 0, 0]
    point(a="one.safetensors", b="three.safetensors")
    with pytest.raises(WeightsError, match=r"'three.safetensors', which is not in"):
        open_tensors(index)
    point(a="one.safetensors", c="two.safetensors")
    with pytest.raises(WeightsError, match=r"two.safetensors lacks c, which"):
        open_tensors(index)
    (tmp_path.parent / "out.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes())
    point(a="../out.safetensors")
    with pytest.raises(WeightsError, match=r"'../out.safetensors', which is not in"):
        open_tensors(index)


def test_json_that_is_none(tmp_path):
    for content, message in (("{", "is not JSON"), ("[1]", "expected a JSON object, found list")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(WeightsError, match=message):
            read_json(tmp_path / "config.json")
