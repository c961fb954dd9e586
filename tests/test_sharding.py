"""One function on 1, 2 and 8 devices, by jit and by pmap; donation; what cannot be had."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vit_jax.sharding import (
    AXIS,
    DeviceError,
    batch_sharded,
    check_batch,
    data_parallel,
    make_mesh,
    replicated,
    select_devices,
)

BATCH = 16
WAYS = [(parallel, devices) for parallel in ("auto", "pmap") for devices in (1, 2, 8)]


def summing_step(state, resident, batch, axis_name=None):
    """Like a training step in small: gathers, weighs by the state, sums over the whole batch."""
    rows = resident["table"][batch["index"]] * batch["mask"][:, None]
    total, count = rows.sum(axis=0), batch["mask"].sum()
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return {"w": state["w"] - total / count, "step": state["step"] + 1}, {"count": count}


@pytest.fixture
def inputs():
    """Functions that make state and resident on a mesh, and the batch on the host."""
    rng = np.random.default_rng(0)
    table = rng.integers(-50, 50, (40, 3)).astype(np.float32)
    batch = {
        "index": rng.integers(0, 40, BATCH).astype(np.int32),
        "mask": (np.arange(BATCH) < 12).astype(np.float32),
    }

    def on(mesh):
        state = {"w": np.ones(3, np.float32), "step": np.int32(4)}
        return *jax.device_put((state, {"table": table}), replicated(mesh)), batch

    return on


@pytest.mark.parametrize(("parallel", "devices"), WAYS)
def test_every_way_gives_the_same_result(inputs, parallel, devices):
    mesh = make_mesh(jax.devices()[:devices])
    state, resident, batch = inputs(mesh)
    index, mask = batch["index"], batch["mask"]
    expected = 1 - (np.asarray(resident["table"])[index] * mask[:, None]).sum(axis=0) / 12

    step = data_parallel(summing_step, mesh, parallel)
    new, metrics = step(state, resident, batch)
    np.testing.assert_allclose(new["w"], expected, rtol=1e-6)
    assert int(new["step"]) == 5
    assert float(metrics["count"]) == 12
    assert new["w"].shape == (3,)  # no axis of devices is left
    # The result goes in again, as the loop does it.
    again, _ = step(new, resident, batch)
    np.testing.assert_allclose(again["w"], 2 * expected - 1, rtol=1e-5)
    assert int(again["step"]) == 6
    assert not state["w"].is_deleted()


@pytest.mark.parametrize(("parallel", "devices"), WAYS)
def test_the_function_sees_the_whole_batch_or_its_devices_share(inputs, parallel, devices):
    mesh = make_mesh(jax.devices()[:devices])
    seen = []

    def look(state, resident, batch, axis_name=None):
        seen.append((batch["index"].shape[0], axis_name))
        # Each device's share in its place: what the devices hold, laid out again.
        sums = batch["index"].sum()
        return sums if axis_name is None else jax.lax.psum(sums, axis_name)

    state, resident, batch = inputs(mesh)
    total = data_parallel(look, mesh, parallel)(state, resident, batch)
    assert int(total) == batch["index"].sum()
    assert set(seen) == {(BATCH // devices, AXIS) if parallel == "pmap" else (BATCH, None)}


@pytest.mark.parametrize("devices", [2, 8])
def test_under_pmap_device_i_gets_the_ith_share_in_order(devices):
    mesh = make_mesh(jax.devices()[:devices])

    def shares(state, resident, batch, axis_name=None):
        return jax.lax.all_gather(batch, axis_name)

    rows = np.arange(BATCH * 3).reshape(BATCH, 3)
    gathered = data_parallel(shares, mesh, "pmap")(jnp.zeros(()), jnp.zeros(()), rows)
    np.testing.assert_array_equal(gathered, rows.reshape(devices, BATCH // devices, 3))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_under_jit_results_are_whole_on_every_device(inputs, devices):
    mesh = make_mesh(jax.devices()[:devices])
    new, _ = data_parallel(summing_step, mesh, "auto")(*inputs(mesh))
    assert new["w"].sharding.is_equivalent_to(replicated(mesh), 1)
    shards = [np.asarray(shard.data) for shard in new["w"].addressable_shards]
    assert len(shards) == devices
    for shard in shards:
        np.testing.assert_array_equal(shard, shards[0])


@pytest.mark.parametrize(("parallel", "devices"), WAYS)
def test_donation_deletes_the_donated_buffers_and_only_those(inputs, parallel, devices):
    mesh = make_mesh(jax.devices()[:devices])
    plain = data_parallel(summing_step, mesh, parallel)
    donating = data_parallel(summing_step, mesh, parallel, donate=True)
    expected, resident, batch = inputs(mesh)
    state, _, _ = inputs(mesh)
    for _ in range(3):  # the results of one step are donated to the next
        before, state = state, donating(state, resident, batch)[0]
        expected, _ = plain(expected, resident, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        np.testing.assert_array_equal(state["w"], expected["w"])
    assert int(state["step"]) == 7
    assert not resident["table"].is_deleted()


@pytest.mark.parametrize("devices", [1, 8])
def test_mesh_and_shardings(devices):
    mesh = make_mesh(jax.devices()[:devices])
    assert mesh.axis_names == ("data", "fsdp")
    assert dict(mesh.shape) == {"data": devices, "fsdp": 1}
    assert replicated(mesh).spec == PartitionSpec()
    rows = jax.device_put(np.arange(16), batch_sharded(mesh))
    assert [shard.data.shape for shard in rows.addressable_shards] == [(16 // devices,)] * devices


@pytest.mark.parametrize(
    ("batch_size", "devices", "nearest"),
    [(12, 8, "use 8 or 16"), (5, 8, "use 8"), (129, 2, "use 128 or 130"), (1, 2, "use 2")],
)
def test_a_batch_that_cannot_be_shared_names_the_nearest_sizes(batch_size, devices, nearest):
    mesh = make_mesh(jax.devices()[:devices])
    with pytest.raises(DeviceError) as error:
        check_batch(batch_size, mesh)
    assert f"batch_size={batch_size} cannot be shared evenly by {devices} devices" in str(
        error.value
    )
    assert str(error.value).endswith(nearest)


@pytest.mark.parametrize(("batch_size", "devices"), [(16, 8), (8, 8), (7, 1), (128, 2)])
def test_a_batch_that_can_be_shared_passes(batch_size, devices):
    check_batch(batch_size, make_mesh(jax.devices()[:devices]))


def test_devices_by_kind():
    assert select_devices("auto") == jax.local_devices()
    cpus = select_devices("cpu")
    assert len(cpus) == 8
    assert {device.platform for device in cpus} == {"cpu"}


@pytest.mark.parametrize(("kind", "extra"), [("gpu", "cuda12"), ("tpu", "tpu")])
def test_devices_that_are_not_there_come_with_an_install_line(kind, extra):
    # tests/conftest.py lets jax see CPUs only, whatever the machine has.
    with pytest.raises(DeviceError) as error:
        select_devices(kind)
    message = str(error.value)
    assert f"device='{kind}' was asked for, with JAX_PLATFORMS=cpu" in message
    assert "sees no such device" in message
    assert f"pip install 'jax[{extra}]=={jax.__version__}'" in message
    assert "--config.device=cpu" in message


@pytest.mark.parametrize("batch_size", [0, -8])
def test_a_batch_holds_at_least_one_image_per_device(batch_size):
    mesh = make_mesh(jax.local_devices()[:8])
    with pytest.raises(DeviceError, match="by 8 devices: use 8"):
        check_batch(batch_size, mesh)
