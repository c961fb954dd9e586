"""What a step needs of a device's memory: by given numbers, and of real programs."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax.train import memory
from vit_jax.train.memory import Need, Setting, explain_out_of_memory
from vit_jax.train.setup import set_up


def need(total=1000, per_image=10.0, **setting):
    return Need(Setting(**({"batch_size": 64} | setting)), total, total // 2, per_image)


def test_the_largest_batch_lies_on_the_line():
    assert need().constant == 360
    assert need().at(32) == 680
    assert need().largest_batch(1000, 1) == 64
    assert need().largest_batch(999, 1) == 63
    assert need().largest_batch(999, 8) == 56
    assert need().largest_batch(2000, 16) == 160
    assert need().largest_batch(100, 1) == 0
    with pytest.raises(ValueError, match="no largest batch"):
        need(per_image=0.0).largest_batch(1000, 1)


def test_the_smallest_number_of_parts_that_fits_divides_the_batch():
    # 360 + 640 / parts, and the gradients once more.
    assert need().parts_that_fit(limit=700, gradients=20, devices=1) == 2
    assert need().parts_that_fit(limit=699, gradients=20, devices=1) == 4
    assert need().parts_that_fit(limit=460, gradients=20, devices=1) == 8
    assert need().parts_that_fit(limit=460, gradients=20, devices=8) == 8
    assert need().parts_that_fit(limit=460, gradients=20, devices=16) is None
    assert need().parts_that_fit(limit=380, gradients=20, devices=1) is None
    # Already in two parts: the sum of gradients is there, and a part has half the images.
    assert need(accumulate_steps=2).parts_that_fit(limit=680, gradients=20, devices=1) == 4


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (999_400, "999 kB"), (1.5e9, "1.5 GB")],
)
def test_bytes_in_words(size, words):
    assert memory.in_words(size) == words


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 2500000000 bytes.", "2.5 GB"),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12.34GiB.", "12.34GiB"),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.", None),
    ],
)
def test_the_bytes_that_xla_asked_for(text, asked):
    assert memory.bytes_asked_for(text) == asked


def test_the_room_that_is_left_is_below_every_limit(monkeypatch):
    resource = pytest.importorskip("resource")
    free = memory.host_free()
    assert 0 < free < 2**50
    used = memory.Path("/proc/self/statm").read_text().split()[0]
    size = int(used) * memory.os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (size + 10**6, size + 10**6))
    assert memory.host_free() <= 10**6


@pytest.fixture(scope="module")
def tiny():
    return {}


@pytest.fixture
def job(plain_config, tiny):
    """Of 64 images a batch on the eight devices."""
    if not tiny:
        model = plain_config.model.clone(depth=1)
        tiny["job"] = set_up(dataclasses.replace(plain_config, model=model))
    return tiny["job"]


def test_the_bytes_of_the_state_are_those_of_its_arrays(job):
    state = job.initial_state()
    for name, part in (("parameters", state.params), ("optimiser", state.opt_state)):
        found = memory.state_bytes(job)[name]
        assert found == sum(leaf.nbytes for leaf in jax.tree.leaves(part)) > 10_000
    assert memory.state_bytes(job)["moving average"] == memory.state_bytes(job)["parameters"]


def test_resident_images_are_counted_once_a_device(job):
    # Of 8x8 bytes and an int32 label; a tenth of 1,442 images each, on every device whole.
    examples = sum(feed.num_examples for feed in job.feeds)
    label = job.train_feed.resident[1].dtype.itemsize
    pixel = job.train_feed.resident[0].dtype.itemsize
    assert memory.resident_bytes(job) == examples * (64 * pixel + label)


@pytest.mark.parametrize("feed", ["resident", "streaming"])
def test_the_shapes_of_a_plan_are_those_of_the_feed(plain_config, feed):
    data = dataclasses.replace(plain_config.data, feed=feed)
    job = set_up(dataclasses.replace(plain_config, data=data))
    plan = jax.tree.map(jax.numpy.asarray, job.train_feed.plan(0))
    expected = {name: (array.shape, array.dtype) for name, array in plan.items()}
    shapes = memory.plan_shapes(job, 64)
    assert {name: (shape.shape, shape.dtype) for name, shape in shapes.items()} == expected
    job.train_feed.close()


@pytest.mark.slow
def test_the_need_is_what_the_compiled_programs_say(job):
    found = memory.measure(job)
    programs = {
        batch: memory.lower_train_step(job, Setting(batch)).compile().memory_analysis()
        for batch in (32, 64, 128)
    }
    state = sum(memory.state_bytes(job).values()) + 4  # and the step's number
    slack = 2000  # metrics, pointers and alignment; the state is 40 times, the images 9 times that
    total = {}
    for batch, stats in programs.items():
        # The state is reused for the next one, but the metrics are new.
        assert state <= stats.alias_size_in_bytes <= stats.output_size_in_bytes < state + slack
        images = memory.resident_bytes(job)
        plan = 12 * batch // len(job.devices)
        total[batch] = state + images + plan + stats.temp_size_in_bytes
    assert found.activations == programs[64].temp_size_in_bytes
    assert found.total == pytest.approx(total[64], abs=slack)
    assert found.per_image == pytest.approx((total[64] - total[32]) / 32, abs=20)
    assert found.at(128) == pytest.approx(total[128], rel=0.15)


@pytest.mark.slow
def test_accumulating_takes_less_memory(job):
    batch = 1024  # of which a part is still far larger than the weights
    whole, parts = (
        memory.lower_train_step(job, Setting(batch, parts)).compile().memory_analysis()
        for parts in (1, 4)
    )
    assert parts.temp_size_in_bytes < 0.5 * whole.temp_size_in_bytes


FULL = "RESOURCE_EXHAUSTED: Out of memory allocating 2500000000 bytes."


def test_other_errors_are_not_explained(job):
    assert explain_out_of_memory(ValueError(FULL), job) is None
    assert explain_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: no"), job) is None


def test_the_explanation_names_the_batch_that_fits_and_the_flags(job, monkeypatch):
    monkeypatch.setattr(memory, "measure", lambda job: need(total=10**9, per_image=10**7))
    monkeypatch.setattr(memory, "device_limit", lambda devices: 10**9)
    text = explain_out_of_memory(jax.errors.JaxRuntimeError(FULL), job)
    # 360 MB and 10 MB an image: 44 images, of which eight devices can share 40.
    assert text == (
        "Out of memory on cpu with batch_size=64, asking for 2.5 GB at once. A step needs 1 GB on "
        "each device, 10 MB of it per image of the batch, and there are 1 GB, 80% of which can "
        "be used. What helps: --config.batch_size=40, which fits; or --config.accumulate_steps=2, "
        "the same update computed in 2 parts; or --config.model.remat=full, mostly less memory, "
        "for more time."
    )


def test_what_should_have_fitted_is_halved(job, monkeypatch):
    monkeypatch.setattr(memory, "measure", lambda job: need(total=10**9, per_image=10**7))
    monkeypatch.setattr(memory, "device_limit", lambda devices: 2 * 10**9)
    text = explain_out_of_memory(jax.errors.JaxRuntimeError(FULL), job)
    assert "--config.batch_size=32, which may fit" in text
    assert "something else holds memory too" in text


@pytest.mark.parametrize("fails", [True, False])
def test_an_explanation_never_fails(job, monkeypatch, fails):
    def measure(job):
        if fails:
            raise MemoryError("no room to compile either")

    monkeypatch.setattr(memory, "measure", measure)
    text = explain_out_of_memory(jax.errors.JaxRuntimeError(FULL), job)
    assert ("could not be found out" if fails else "does not tell what it needs") in text
    for flag in ("batch_size=32, which may fit", "accumulate_steps=2", "model.remat=full"):
        assert f"--config.{flag}" in text


def test_a_backend_without_an_analysis_is_said_to_have_none(job, monkeypatch):
    monkeypatch.setattr(memory, "_analysis", lambda job, setting: None)
    assert memory.measure(job) is None


def test_the_unit_of_a_batch_holds_parts_pairs_and_repeats(job):
    assert memory.batch_unit(job, 1) == 8
    assert memory.batch_unit(job, 3) == 24
    augment = dataclasses.replace(job.config.augment, mixup=0.8, repeats=3)
    mixing = dataclasses.replace(job, config=dataclasses.replace(job.config, augment=augment))
    assert memory.batch_unit(mixing, 1) == 48
    assert np.gcd(memory.batch_unit(mixing, 4), 32) == 32
