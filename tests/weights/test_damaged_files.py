"""Weights damaged in ways that fuzzing has found: an error of ours, and soon."""

import json
import re
import zipfile

import numpy as np
import pytest

from vit_jax.weights import WeightsError
from vit_jax.weights.files import open_tensors
from vit_jax.weights.pretrained import open_pretrained


def write_safetensors(path, **entries):
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


def entry(shape, offsets):
    return {"dtype": "F32", "shape": shape, "data_offsets": offsets}


def write_npz(path, header, data=b""):
    text = f"{header}\n".encode()
    content = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)


@pytest.mark.parametrize("offsets", [[0], [0, "8"], [], None])
def test_a_safetensors_whose_array_ends_nowhere(offsets, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", a=entry([2], offsets))
    with pytest.raises(WeightsError, match=r"a\.safetensors is no whole safetensors file"):
        open_tensors(tmp_path / "a.safetensors")


def test_a_safetensors_that_promises_more_digits_than_python_prints(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", a=entry([2], [0, int("9" * 4300)]))
    with pytest.raises(WeightsError, match="its header promises 9,223,372,036,854,"):
        open_tensors(tmp_path / "a.safetensors")


def test_an_empty_array_may_not_have_an_axis_longer_than_its_file(tmp_path):
    """Readers make as many blocks as a first axis says, and of this one never come to an end."""
    path, archive = tmp_path / "a.safetensors", tmp_path / "a.npz"
    write_safetensors(path, a=entry([0, 2], [0, 0]), b=entry([2], [0, 8]))
    assert open_tensors(path).shapes["a"] == (0, 2)
    write_safetensors(path, a=entry([10**12, 0], [0, 0]), b=entry([2], [0, 8]))
    with pytest.raises(WeightsError, match=r"a has shape \(1000000000000, 0\), more than the file"):
        open_tensors(path)
    np.savez(archive, a=np.zeros((0, 2)))
    assert open_tensors(archive).shapes == {"a": (0, 2)}
    for descr, shape in (("<f4", (10**12, 0)), ("V0", (10**12,))):
        write_npz(archive, {"descr": descr, "fortran_order": False, "shape": shape})
        with pytest.raises(WeightsError, match=r"a\.npz: a is cut short"):
            open_tensors(archive)


HEADERS = ("-" * 3000 + "1", "'" * 3, "(" * 300, "\n  x", "{1: 2, 'x': 3}", "\\")


@pytest.mark.parametrize("number", range(len(HEADERS)))
def test_an_npz_whose_header_is_no_literal(number, tmp_path):
    write_npz(tmp_path / "a.npz", HEADERS[number])
    with pytest.raises(WeightsError, match=r"a\.npz: a is no NumPy array"):
        open_tensors(tmp_path / "a.npz")


def test_an_npz_of_python_2_is_read_without_a_warning(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,)}"
    write_npz(tmp_path / "a.npz", header, np.array([1, 2], np.float32).tobytes())
    assert open_tensors(tmp_path / "a.npz").read("a").tolist() == [1, 2]


def change(path, mark, place, new):
    """Overwrite bytes from `place` after the last mark."""
    content = path.read_bytes()
    start = content.rindex(mark) + place
    path.write_bytes(content[:start] + new + content[start + len(new) :])


def test_an_archive_whose_directory_says_what_cannot_be(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(4.0))
    change(path, b"PK\5\6", 16, b"\0\0\0\x80")  # where the directory begins
    with pytest.raises(WeightsError, match=r"a\.npz: a is no NumPy array: .*Invalid argument"):
        open_tensors(path)
    np.savez(path, a=np.arange(4.0))
    change(path, b"PK\1\2", 6, b"\xff")  # the version of zip that is needed
    with pytest.raises(WeightsError, match=r"damaged or incomplete archive \(zip file version"):
        open_tensors(path)


def test_an_archive_with_a_damaged_stream(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[600:700] = bytes([255]) * 100
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.npz: a is no NumPy array: Error -3"):
        open_tensors(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "arrays, too few for 1000000000 blocks"),
        ("image_size", 2**53, "more than 65,536 pixels on a side"),
        ("patch_size", [2**53, 2], "more than 65,536 pixels on a side"),
        ("hidden_size", 2**63, "read as Hugging Face: "),
    ],
)
def test_a_config_json_with_numbers_that_would_take_forever(field, value, message, saved):
    folder = saved("huggingface")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {field: value}))
    with pytest.raises(WeightsError, match=re.escape(message)):
        open_pretrained(folder)
