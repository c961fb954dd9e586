"""Reading prepared TFDS sets without TensorFlow: both file formats, the cache, and what is wrong.

The sets are small ones in the published layout, see conftest.py; the last tests read the real
CIFAR-10 where it is on disk.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorboardX.record_writer import RecordWriter

from vit_jax.data.source import DataError, channel_statistics
from vit_jax.data.tfds_source import data_dir, tfds_arrays

ARRAY_RECORD = "cifar10-{}.array_record-00000-of-00001"


def equal(source, images, labels):
    np.testing.assert_array_equal(source.images, images)
    np.testing.assert_array_equal(source.labels, labels)


def as_tfrecord(folder, shards=1):
    """Turn a prepared folder into what TFDS's default format is; returns the files of train.

    The framing, checksums included, is written by tensorboardX.
    """
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    files = []
    for split in info["splits"]:
        old = folder / ARRAY_RECORD.format(split["name"])
        reader = ArrayRecordReader(str(old))
        records = reader.read_all()
        reader.close()
        old.unlink()
        parts = np.array_split(np.arange(len(records)), shards)
        split["shardLengths"] = [str(len(part)) for part in parts]
        for number, part in enumerate(parts):
            name = f"cifar10-{split['name']}.tfrecord-{number:05d}-of-{shards:05d}"
            writer = RecordWriter(str(folder / name))
            for index in part:
                writer.write(records[index])
            writer.close()
            files += [folder / name] if split["name"] == "train" else []
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return files


@pytest.mark.parametrize("which", ["cifar10", "cifar100"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_it_reads_what_tfds_reads(which, split, request):
    small = request.getfixturevalue(which)
    source = tfds_arrays(which, split, str(small.root))
    reference = tfds.data_source(which, split=split, data_dir=small.root, download=False)
    assert source.images.dtype == np.uint8
    assert source.labels.dtype == np.int32
    assert source.images.shape == (len(small.splits[split].labels), 32, 32, 3)
    equal(source, [x["image"] for x in reference], [x["label"] for x in reference])
    assert source.class_names == small.class_names
    # The ids say which image of the archive each one is: none is lost, twice there or mixed up.
    places = [int(x["id"].decode().removeprefix(f"{split}_")) for x in reference]
    assert sorted(places) == list(range(len(source)))
    equal(source, small.splits[split].images[places], small.splits[split].labels[places])


def test_splits_and_sets_have_fingerprints_of_their_own(cifar10, cifar100):
    fingerprints = [
        tfds_arrays(small.name, split, str(small.root)).fingerprint
        for small in (cifar10, cifar100)
        for split in ("train", "test")
    ]
    assert len(set(fingerprints)) == 4


@pytest.mark.parametrize("shards", [1, 3])
def test_a_tfrecord_folder_reads_the_same(cifar10, own_cifar10, shards):
    files = as_tfrecord(own_cifar10.folder, shards)
    assert len(files) == shards
    for split in ("train", "test"):
        ours = tfds_arrays("cifar10", split, str(own_cifar10.root))
        theirs = tfds_arrays("cifar10", split, str(cifar10.root))
        equal(ours, theirs.images, theirs.labels)
        assert ours.class_names == theirs.class_names
        # The same images are the same data, in whatever files they came.
        assert ours.fingerprint == theirs.fingerprint


@pytest.mark.parametrize("missing", [1, 4, 5, 1000])
def test_a_truncated_tfrecord_is_refused_and_leaves_no_cache(own_cifar10, missing):
    (file,) = as_tfrecord(own_cifar10.folder)
    os.truncate(file, file.stat().st_size - missing)
    for _ in range(2):  # the second time as well: nothing of it is in the cache
        with pytest.raises(DataError, match="is truncated") as error:
            tfds_arrays("cifar10", "train", str(own_cifar10.root))
        assert str(file) in str(error.value)
    assert list(own_cifar10.folder.glob("vit_jax_decoded/*")) == []


def test_the_second_time_the_cache_beside_the_data_is_read(cifar10, own_cifar10):
    first = tfds_arrays("cifar10", "train", str(own_cifar10.root))
    decoded = own_cifar10.folder / "vit_jax_decoded"
    assert {file.name for file in decoded.iterdir()} == {"train-images.npy", "train-labels.npy"}
    assert not own_cifar10.xdg.exists()

    for file in own_cifar10.folder.glob("*.array_record*"):
        file.unlink()
    second = tfds_arrays("cifar10", "train", str(own_cifar10.root))
    equal(second, first.images, first.labels)
    assert second.fingerprint == first.fingerprint
    theirs = tfds_arrays("cifar10", "train", str(cifar10.root))
    equal(second, theirs.images, theirs.labels)


def test_beside_read_only_data_the_users_cache_folder_is_used(own_cifar10):
    before = sorted(own_cifar10.root.rglob("*"))
    own_cifar10.folder.chmod(0o555)
    first = tfds_arrays("cifar10", "train", str(own_cifar10.root))
    assert sorted(own_cifar10.root.rglob("*")) == before
    cached = {file.name for file in own_cifar10.xdg.glob("vit_jax/*/*")}
    assert cached == {"train-images.npy", "train-labels.npy"}

    own_cifar10.folder.chmod(0o755)
    (own_cifar10.folder / ARRAY_RECORD.format("train")).unlink()
    own_cifar10.folder.chmod(0o555)
    second = tfds_arrays("cifar10", "train", str(own_cifar10.root))
    equal(second, first.images, first.labels)


def test_a_cache_with_one_of_its_two_files_is_made_again(own_cifar10):
    first = tfds_arrays("cifar10", "train", str(own_cifar10.root))
    labels = np.array(first.labels)
    (own_cifar10.folder / "vit_jax_decoded" / "train-labels.npy").unlink()
    again = tfds_arrays("cifar10", "train", str(own_cifar10.root))
    equal(again, first.images, labels)


def test_an_unknown_split_is_refused_with_those_there_are(cifar10):
    with pytest.raises(DataError, match=r"split 'validation' of cifar10: there are 'train', 'tes"):
        tfds_arrays("cifar10", "validation", str(cifar10.root))


def test_a_set_not_on_disk_names_the_command_that_prepares_it(tmp_path):
    with pytest.raises(DataError, match="mnist is not prepared in") as error:
        tfds_arrays("mnist", "train", str(tmp_path))
    command = f"tfds build mnist --data_dir={tmp_path} --file_format=array_record"
    assert command in str(error.value)
    assert list(tmp_path.iterdir()) == []


def other_set(folder, features, examples, supervised_keys):
    """Prepare a set of one split in a folder of its own, from examples made here."""

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised_keys,
            )

        def _split_generators(self, dl_manager):
            return {"train": enumerate(examples)}

        def _generate_examples(self):
            raise NotImplementedError

    Other.name = "other"
    Other(data_dir=folder, file_format="array_record").download_and_prepare()


def png(folder, image):
    """The path of the image as a file: TFDS takes encoded files as they are."""
    from PIL import Image

    path = folder / f"{len(list(folder.iterdir()))}.png"
    Image.fromarray(image).save(path)
    return str(path)


def test_grey_images_get_a_channel_and_keys_are_taken_from_the_set(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    (tmp_path / "png").mkdir()
    other_set(
        tmp_path / "data",
        {
            "picture": tfds.features.Image(shape=(5, 4, 1)),
            "kind": tfds.features.ClassLabel(names=["a", "b", "c"]),
        },
        [{"picture": png(tmp_path / "png", x), "kind": i % 3} for i, x in enumerate(images)],
        ("picture", "kind"),
    )
    source = tfds_arrays("other", "train", str(tmp_path / "data"))
    assert source.class_names == ("a", "b", "c")
    assert source.images.shape == (6, 5, 4, 1)
    # TFDS shuffles: pair the images by content, then each must have its own label.
    places = [[x.tobytes() for x in images].index(y.tobytes()) for y in source.images]
    assert sorted(places) == list(range(6))
    assert source.labels.tolist() == [place % 3 for place in places]


def test_images_of_different_sizes_are_refused(tmp_path):
    (tmp_path / "png").mkdir()
    sizes = [(4, 4, 3), (5, 4, 3), (4, 4, 3)]
    other_set(
        tmp_path / "data",
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)},
        [{"image": png(tmp_path / "png", np.zeros(size, np.uint8)), "label": 0} for size in sizes],
        ("image", "label"),
    )
    with pytest.raises(DataError, match=r"the images of other differ in size \(2 shapes, such as"):
        tfds_arrays("other", "train", str(tmp_path / "data"))


def test_a_set_without_image_and_label_is_refused_with_its_features(tmp_path):
    other_set(
        tmp_path / "data",
        {"words": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)},
        [{"words": "a", "label": 0}],
        ("words", "label"),
    )
    with pytest.raises(DataError, match=r"no image with one class label.*words"):
        tfds_arrays("other", "train", str(tmp_path / "data"))


def test_the_data_folder_is_the_configs_then_the_environments_then_tfdss(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "~/elsewhere")
    assert data_dir("/data") == Path("/data")
    assert data_dir(None) == Path.home() / "elsewhere"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert data_dir(None) == Path.home() / "tensorflow_datasets"


REAL = data_dir(None) / "cifar10" / "3.0.2"


@pytest.fixture(scope="module")
def real_cifar10(tmp_path_factory):
    """A folder whose CIFAR-10 consists of links to the real files: the cache goes beside the links.

    Only where TFDS_DATA_DIR is set: a home folder is not looked into unasked.
    """
    if not os.environ.get("TFDS_DATA_DIR") or not REAL.is_dir():
        pytest.skip("needs the real CIFAR-10: set TFDS_DATA_DIR to a folder with cifar10/3.0.2")
    root = tmp_path_factory.mktemp("real")
    folder = root / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for file in REAL.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "xdg"))
        yield root


@pytest.mark.parametrize(("split", "size"), [("train", 50_000), ("test", 10_000)])
def test_the_real_cifar10(real_cifar10, split, size):
    source = tfds_arrays("cifar10", split, str(real_cifar10))
    assert source.images.shape == (size, 32, 32, 3)
    assert np.bincount(source.labels).tolist() == [size // 10] * 10
    assert re.fullmatch("airplane automobile .* truck", " ".join(source.class_names))
    reference = tfds.data_source("cifar10", split=split, data_dir=REAL.parents[1], download=False)
    for index in (0, 1, 2, 3, size // 2, size - 1):
        np.testing.assert_array_equal(source.images[index], reference[index]["image"])
        assert source.labels[index] == reference[index]["label"]


def test_the_statistics_of_the_real_cifar10(real_cifar10):
    mean, std = channel_statistics(tfds_arrays("cifar10", "train", str(real_cifar10)).images)
    np.testing.assert_allclose(mean, (0.49140, 0.48216, 0.44653), atol=1e-5)
    np.testing.assert_allclose(std, (0.24703, 0.24349, 0.26159), atol=1e-5)


def test_a_split_with_images_missing_is_refused(own_cifar10):
    (file,) = as_tfrecord(own_cifar10.folder)
    content, offset = file.read_bytes(), 0
    for _ in range(7):  # cut where a record ends: the framing alone does not show it
        offset += 16 + int.from_bytes(content[offset : offset + 8], "little")
    os.truncate(file, offset)
    with pytest.raises(DataError, match=r"holds 7 images, but its dataset_info.json says \d+"):
        tfds_arrays("cifar10", "train", str(own_cifar10.root))
    assert list(own_cifar10.folder.glob("vit_jax_decoded/*")) == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing"])
def test_a_damaged_array_record_is_refused_by_name(own_cifar10, damage):
    file = own_cifar10.folder / ARRAY_RECORD.format("train")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:3000] if damage == "cut" else b"no record" * 5000)
    with pytest.raises(DataError) as error:
        tfds_arrays("cifar10", "train", str(own_cifar10.root))
    assert str(file) in str(error.value)
    assert "prepare it again" in str(error.value)


def test_a_damaged_cache_is_made_again(own_cifar10):
    first = tfds_arrays("cifar10", "train", str(own_cifar10.root))
    images, labels = np.array(first.images), first.labels
    cache = own_cifar10.folder / "vit_jax_decoded" / "train-images.npy"
    os.truncate(cache, cache.stat().st_size // 2)
    equal(tfds_arrays("cifar10", "train", str(own_cifar10.root)), images, labels)
    assert cache.stat().st_mode & 0o044 == 0o044 & ~current_umask(), "others may read it too"


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", "TFDS knows no data set 'cifar11'; perhaps cifar10"),
        ("cifar10:9.9.9", "TFDS cannot open 'cifar10:9.9.9'"),
        ("mnist/a", "TFDS cannot open 'mnist/a'"),
    ],
)
def test_a_name_that_tfds_does_not_know_is_refused(tmp_path, name, message):
    with pytest.raises(DataError, match=re.escape(message)):
        tfds_arrays(name, "train", str(tmp_path))
