"""A state in shares: the same training, less memory, and checkpoints that any mesh reads."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax import sharding
from vit_jax.config import ConfigError
from vit_jax.runs import proof
from vit_jax.runs.checkpoints import Checkpoints, DamagedError
from vit_jax.sharding import make_mesh, state_sharding
from vit_jax.train import memory, setup, summary

STEPS = 10


@pytest.fixture
def shared_config(plain_config, monkeypatch):
    """Arrays of this small model are below the size from which they are shared."""
    monkeypatch.setattr(sharding, "SMALLEST", 64)
    return dataclasses.replace(plain_config, steps=STEPS)


def prepare(config, devices, fsdp, monkeypatch):
    monkeypatch.setattr(setup, "select_devices", lambda device: jax.local_devices()[:devices])
    return setup.set_up(dataclasses.replace(config, fsdp=fsdp))


def train(job, state=None, steps=range(STEPS)):
    """The state after the steps, and their losses."""
    state, losses = state or job.initial_state(), []
    for step in steps:
        state, metrics = job.train_step(state, job.train_feed.resident, job.train_feed.plan(step))
        losses.append(float(metrics["loss"]))
    return state, losses


def lies_as(array, where):
    assert array.sharding.is_equivalent_to(where, array.ndim), (array.sharding, where)


@pytest.mark.parametrize(("devices", "fsdp"), [(2, 2), (8, 4), (8, 8)])
def test_losses_do_not_depend_on_how_the_state_lies(shared_config, devices, fsdp, monkeypatch):
    _, expected = train(prepare(shared_config, 1, 1, monkeypatch))
    job = prepare(shared_config, devices, fsdp, monkeypatch)
    state, found = train(job)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    kernel = state.params["head"]["kernel"]  # [16, 10]
    assert kernel.addressable_shards[0].data.shape == (16 // fsdp, 10)
    for tree in (state.params, state.ema):
        jax.tree.map(lies_as, tree, job.sharding.params)
    plan = job.eval_feed.plan(0)
    counts = job.eval_step(state.params, job.eval_feed.resident, plan)
    assert counts.confusion.sum() == plan["mask"].sum()


@pytest.mark.slow
def test_muon_does_not_depend_on_how_the_state_lies(shared_config, monkeypatch):
    """Its moments are stacks of all blocks' matrices, and lie otherwise than the parameters."""
    optim = dataclasses.replace(shared_config.optim, name="muon", momentum=0.95, learning_rate=0.02)
    config = dataclasses.replace(shared_config, optim=optim)
    _, expected = train(prepare(config, 1, 1, monkeypatch))
    for devices, fsdp in ((8, 1), (8, 4)):
        job = prepare(config, devices, fsdp, monkeypatch)
        state, found = train(job)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        kernel = state.params["encoder"]["block_0"]["mlp"]["fc1"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // fsdp
    assert expected[0] - expected[-1] > 0.01, "the training should go somewhere"


def test_a_step_needs_less_memory(shared_config, monkeypatch):
    model = shared_config.model.clone(width=64, mlp_dim=256, depth=1)
    config = dataclasses.replace(shared_config, model=model, batch_size=8)
    arguments = []
    for fsdp in (1, 2):
        job = prepare(config, 2, fsdp, monkeypatch)
        lowered = memory.lower_train_step(job, memory.setting_of(job))
        arguments.append(lowered.compile().memory_analysis().argument_size_in_bytes)
        arguments[-1] -= sum(array.nbytes for array in job.train_feed.resident)
    assert arguments[1] < 0.6 * arguments[0]
    assert sum(memory.state_bytes(job).values()) < arguments[1], "and keys, plan and counters"
    assert summary.describe_held(job).startswith("Each device holds ")


@pytest.mark.parametrize(("written", "read"), [((8, 4), (1, 1)), ((1, 1), (8, 8))])
def test_a_checkpoint_does_not_know_how_the_state_lay(
    shared_config, written, read, tmp_path, monkeypatch
):
    job = prepare(shared_config, *written, monkeypatch)
    half, _ = train(job, steps=range(STEPS // 2))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(STEPS // 2, half, {}, None)
    checkpoints.close()
    expected = jax.tree.map(np.asarray, half)
    _, losses = train(job, half, range(STEPS // 2, STEPS))
    other = prepare(shared_config, *read, monkeypatch)
    checkpoints = Checkpoints(tmp_path)
    restored, _ = checkpoints.restore(STEPS // 2, other.state_shapes, other.sharding)
    checkpoints.close()
    jax.tree.map(lies_as, restored, other.sharding)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)
    _, found = train(other, restored, range(STEPS // 2, STEPS))
    np.testing.assert_allclose(found, losses, rtol=0, atol=1e-5)


def test_a_wrong_value_in_one_share_is_found(shared_config, tmp_path, monkeypatch):
    job = prepare(shared_config, 8, 4, monkeypatch)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, job.initial_state(), {}, None)
    checkpoints.wait()
    notes = tmp_path / "1" / "proof" / "notes.json"
    found = proof.from_text(notes.read_text())
    name = "params/head/bias"
    found.arrays[name] = dataclasses.replace(found.arrays[name], checksum="0" * 16)
    notes.write_text(proof.to_text(found))
    with pytest.raises(DamagedError, match=f"the values of {name} are not those"):
        checkpoints.restore(1, job.state_shapes, job.sharding)
    checkpoints.close()


def test_the_longest_axis_is_shared_and_the_last_of_equals():
    mesh = make_mesh(jax.devices()[:8], 4)
    shapes = {
        "longest": (8, 16, 4),
        "equal": (16, 16),
        "not divisible": (15, 12),
        "nothing divisible": (15, 13),
        "small": (2, 4),
        "number": (),
    }
    shapes = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    found = {name: tuple(s.spec) for name, s in state_sharding(mesh, shapes, 100).items()}
    assert found == {
        "longest": (None, "fsdp"),
        "equal": (None, "fsdp"),
        "not divisible": (None, "fsdp"),
        "nothing divisible": (),
        "small": (),
        "number": (),
    }
    whole = state_sharding(make_mesh(jax.devices()[:8]), shapes, 100)
    assert all(sharding.is_fully_replicated for sharding in whole.values())


def test_what_cannot_be_is_said_before_anything_is_opened(plain_config, monkeypatch):
    config = dataclasses.replace(plain_config, parallel="pmap")
    with pytest.raises(ConfigError, match="parallel='pmap' and fsdp=2: under pmap every device"):
        prepare(config, 8, 2, monkeypatch)
    with pytest.raises(sharding.DeviceError, match="fsdp=3 does not divide the 8 devices: use 1 "):
        prepare(plain_config, 8, 3, monkeypatch)
    with pytest.raises(ConfigError, match="fsdp=0: should be at least 1"):
        prepare(plain_config, 8, 0, monkeypatch)
