"""Which feed the images get: by their size, and by what the config says."""

import json
import os

import jax
import numpy as np
import pytest
from data.folders import make_folder, plain, save

from vit_jax.data import feeds
from vit_jax.data.catalog import open_splits
from vit_jax.data.encoded import FileSource
from vit_jax.data.feeds import make_feed, settle
from vit_jax.data.order import Order
from vit_jax.data.resident import ResidentFeed
from vit_jax.data.source import ArraySource, DataConfig, DataError
from vit_jax.data.streaming import RandomCrop, StreamingFeed
from vit_jax.sharding import batch_sharded, make_mesh, replicated


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Seven pictures of 4 x 4 x 3 = 48 bytes, six to train on and one held out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = make_folder(tmp_path / "data")
    save(root / "train" / "b" / "z.png", plain((7, 0, 0)))
    return lambda **fields: DataConfig(
        name="folder",
        root=str(root),
        train_split="train[:6]",
        eval_split="train[6:]",
        test_split=None,
        image_size=4,
        **fields,
    )


def settled(config, devices=4):
    mesh = make_mesh(jax.devices()[:devices])
    return settle(config, open_splits(config), replicated(mesh), batch_sharded(mesh))


def decoded(source):
    return {source.name(i): int(source[i]["image"][0, 0, 0]) for i in range(len(source))}


@pytest.mark.parametrize(
    ("bytes_per_device", "expected"),
    [(336 / 0.25, "replicated"), (335 / 0.25, "split"), (84 / 0.25, "split"), (83 / 0.25, "none")],
)
def test_the_size_decides(config, monkeypatch, bytes_per_device, expected):
    # Seven images of 48 bytes are 336; four devices hold 84 each.
    monkeypatch.setattr(feeds, "_memory", lambda stats, devices: bytes_per_device)
    sources, sharding = settled(config())
    kind = "none"
    if sharding is not None:
        kind = "replicated" if sharding.is_fully_replicated else "split"
    assert kind == expected
    held = FileSource if expected == "none" else ArraySource
    assert {type(source) for source in sources.values()} == {held}


def test_resident_images_that_do_not_fit_are_refused_with_the_numbers(config, monkeypatch):
    monkeypatch.setattr(feeds, "_memory", lambda stats, devices: 1e-9)
    message = r"take 0\.0 GB, above the share data\.resident_share=0\.25 .* of 4 devices, .*stream"
    with pytest.raises(DataError, match=message):
        settled(config(feed="resident"))


@pytest.mark.parametrize(
    ("stats", "devices", "expected"),
    [({"bytes_limit": 123}, 4, 123), (None, 4, "host"), ({}, 2, "host")],
)
def test_memory_is_the_devices_or_a_part_of_the_machines(stats, devices, expected):
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // devices
    assert feeds._memory(stats, devices) == (host if expected == "host" else expected)


def feed_of(config, use="train", crop=None):
    sources, sharding = settled(config)
    source = sources[use]
    return make_feed(config, source, Order(len(source), 2), sharding, crop, use != "train")


def test_the_config_decides(config):
    assert isinstance(feed_of(config()), ResidentFeed)
    assert isinstance(feed_of(config(feed="streaming")), StreamingFeed)


def test_workers_read_files_for_training_alone(config):
    cores = min(16, os.cpu_count() or 1)
    streaming = config(feed="streaming")
    assert feed_of(streaming).workers == cores
    assert feed_of(config(feed="streaming", workers=3)).workers == 3
    assert feed_of(config(feed="streaming", workers=0)).threads == cores
    assert feed_of(streaming, use="eval").workers == 0
    # Images in memory would be sent to every worker.
    assert feed_of(config(feed="streaming", workers=3, cache="memory")).workers == 0


def test_crops_are_cut_on_the_host_where_files_are_decoded(config):
    crop = RandomCrop((0.1, 1.0), (0.8, 1.2), seed=0)
    assert feed_of(config(feed="streaming"), crop=crop).crops_on_host
    assert not feed_of(config(feed="streaming", cache="memory"), crop=crop).crops_on_host
    assert not feed_of(config(), crop=crop).crops_on_host


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_cache_holds_what_the_files_hold(config, cache):
    plain_sources, _ = settled(config(feed="streaming"))
    cached, _ = settled(config(feed="streaming", cache=cache))
    for use, source in cached.items():
        assert isinstance(source, ArraySource)
        assert decoded(source) == decoded(plain_sources[use])
        assert source.fingerprint == plain_sources[use].fingerprint
        assert isinstance(source.images, np.memmap) == (cache == "disk")


def test_a_cache_on_disk_is_written_once_and_follows_the_files(config, tmp_path):
    streaming = config(feed="streaming", cache="disk")
    settled(streaming)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert len(files) == 2
    settled(streaming)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert set((tmp_path / "cache").rglob("*.npy")) == set(files)
    save(tmp_path / "data" / "train" / "a" / "4.png", plain((200, 0, 0)))
    sources, _ = settled(streaming)
    assert 200 in (
        *decoded(sources["train"]).values(),
        *decoded(sources["eval"]).values(),
    )


def test_a_damaged_cache_is_made_anew(config, tmp_path):
    streaming = config(feed="streaming", cache="disk")
    expected = decoded(settled(streaming)[0]["train"])
    for path in (tmp_path / "cache").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    assert decoded(settled(streaming)[0]["train"]) == expected


def test_bad_images_are_noted_in_every_cache(config, tmp_path):
    save(tmp_path / "data" / "train" / "b" / "x.png", b"torn")
    for cache in ("none", "memory", "disk", "disk"):
        with pytest.raises(DataError, match=r"b/x\.png is not an image"):
            settled(config(cache=cache))
        sources, _ = settled(config(cache=cache, on_bad_image="skip"))
        bad = [name for source in sources.values() for name in source.bad]
        assert len(bad) == 1
    notes = [json.loads(path.read_text()) for path in (tmp_path / "cache").rglob("*.json")]
    assert sorted(len(note) for note in notes) == [0, 1]


def test_a_cache_on_disk_notices_every_file_that_was_changed(config, tmp_path):
    # The same size and name; only the time tells, and no file is read for it.
    streaming = config(feed="streaming", cache="disk")
    settled(streaming)
    path = tmp_path / "data" / "train" / "a" / "4.png"
    size = path.stat().st_size
    save(path, plain((9, 0, 0)))
    assert path.stat().st_size == size
    sources, _ = settled(streaming)
    assert 9 in [*decoded(sources["train"]).values(), *decoded(sources["eval"]).values()]


def test_a_cache_that_could_not_be_made_leaves_nothing(config, tmp_path):
    save(tmp_path / "data" / "train" / "a" / "4.png", b"torn")
    with pytest.raises(DataError, match="is not an image"):
        settled(config(cache="disk"))
    assert list((tmp_path / "cache").rglob("*.tmp*")) == []


def test_a_split_without_any_picture_is_refused(config, tmp_path):
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"torn")
    with pytest.raises(
        DataError, match=r"none of the 6 files of the split for 'train' holds a pic"
    ):
        settled(config(on_bad_image="skip"))
