"""Checksums of an array that several processes hold in shares."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.runs.proof import (
    FILE,
    SHARES,
    ArrayProof,
    Proof,
    checksum,
    on_host,
    prove,
    read_proof,
    to_text,
)

ARRAY = np.arange(24, dtype=np.float32).reshape(4, 6)
LEFT, RIGHT = {"0:4,0:3": checksum(ARRAY[:, :3])}, {"0:4,3:6": checksum(ARRAY[:, 3:])}


def proof_of(shares):
    return ArrayProof("float32", (4, 6), shares)


def test_shares_prove_all_values_and_only_those():
    assert proof_of(LEFT | RIGHT).fits(ARRAY)
    assert not proof_of(LEFT).fits(ARRAY), "a share is not proven"
    for place in ((0, 0), (3, 5)):
        other = ARRAY.copy()
        other[place] += 1
        assert not proof_of(LEFT | RIGHT).fits(other)
    assert not proof_of(LEFT | RIGHT).fits(ARRAY.astype(np.float64))
    assert not proof_of(LEFT | RIGHT).fits(ARRAY[:, :3])


def test_what_all_processes_have_written_is_put_together(tmp_path):
    arrays = {"kernel": proof_of(LEFT), "bias": prove(ARRAY[0])}
    (tmp_path / FILE).write_text(to_text(Proof({"a": 1}, 0.5, arrays)))
    other = Proof({}, None, {"kernel": proof_of(RIGHT)})
    (tmp_path / SHARES.format(1)).write_text(to_text(other))
    found = read_proof(tmp_path)
    assert (found.notes, found.score) == ({"a": 1}, 0.5)
    assert found.arrays["kernel"].fits(ARRAY)
    assert found.arrays["bias"].fits(ARRAY[0])
    damaged = to_text(other).replace("0:4,3:6", "0:4,2:6")
    (tmp_path / SHARES.format(1)).write_text(damaged)
    with pytest.raises(ValueError, match="its checksum is another"):
        read_proof(tmp_path)


def test_shares_on_devices_come_together_on_the_host():
    mesh = Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    shared = jax.device_put(ARRAY, NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    np.testing.assert_array_equal(on_host(shared), ARRAY)
    assert prove(on_host(shared)).fits(ARRAY)
