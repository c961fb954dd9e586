"""Files that are not what they seem: each a message that names file, finding and remedy."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

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
