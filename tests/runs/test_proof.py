import json

import jax.numpy as jnp
import numpy as np
import pytest
import xxhash

from vit_jax.runs.proof import ArrayProof, Proof, from_text, prove, to_text


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,  # not contiguous
        np.int32(7),
        np.asarray(jnp.arange(5, dtype=jnp.bfloat16)),
        np.zeros((0, 3), np.float32),
    ],
    ids=["matrix", "transposed", "scalar", "bfloat16", "empty"],
)
def test_the_checksum_is_xxh3_of_the_bytes_row_by_row(array):
    proof = prove(np.asarray(array))
    assert proof.checksum == xxhash.xxh3_64_hexdigest(np.asarray(array).tobytes())
    assert (proof.dtype, proof.shape) == (str(np.asarray(array).dtype), np.shape(array))


def test_every_bit_of_every_element_counts():
    array = np.linspace(-1, 1, 64, dtype=np.float32)
    seen = {prove(array).checksum}
    for bit in range(array.nbytes * 8):
        flipped = array.view(np.uint8).copy()
        flipped[bit // 8] ^= 1 << bit % 8
        seen.add(prove(flipped.view(np.float32)).checksum)
    assert len(seen) == 1 + array.nbytes * 8


PROOF = Proof({"sums": {"loss": 0.1}, "none": None}, 0.25, {"a/b": ArrayProof("int8", (2,), "00")})


def test_notes_come_back_as_they_were():
    assert from_text(to_text(PROOF)) == PROOF


def test_every_flipped_bit_of_the_notes_is_noticed_or_without_effect():
    content = to_text(PROOF).encode()
    unharmed = 0
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = from_text(flipped.decode())
        except (ValueError, KeyError, TypeError):
            continue
        assert found == PROOF  # a space that became another kind of space
        unharmed += 1
    assert unharmed < 0.05 * len(content) * 8


def test_what_is_no_proof_is_a_value_error():
    for text in ("", "[]", "{}", "{", json.dumps({"checksum": "0"})):
        with pytest.raises(ValueError, match=r"."):
            from_text(text)
