"""Reading prepared TFDS sets without TensorFlow: both file formats, the cache, and what is wrong.

The sets are small ones in the published layout, see conftest.py; the last tests read the real
CIFAR-10 where it is on disk.
"""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.tfds_sets import as_tfrecord, prepare
from PIL import Image

from vit_jax.data.catalog import open_source, split_names
from vit_jax.data.decode import BadImageError
from vit_jax.data.encoded import FileSource
from vit_jax.data.source import DataConfig, DataError
from vit_jax.data.statistics import channel_statistics
from vit_jax.data.tfds_source import data_dir, tfds_arrays

ARRAY_RECORD = "cifar10-{}.array_record-00000-of-00001"


def equal(source, images, labels):
    np.testing.assert_array_equal(source.images, images)
    np.testing.assert_array_equal(source.labels, labels)


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


def png(folder, image):
    """The path of the image as a file: TFDS takes encoded files as they are."""
    path = folder / f"{len(list(folder.iterdir()))}.png"
    Image.fromarray(image).save(path)
    return str(path)


def test_grey_images_get_a_channel_and_keys_are_taken_from_the_set(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    (tmp_path / "png").mkdir()
    files = [png(tmp_path / "png", image) for image in images]
    examples = [{"picture": file, "kind": place % 3} for place, file in enumerate(files)]
    prepare(
        tmp_path / "data",
        {
            "picture": tfds.features.Image(shape=(5, 4, 1)),
            "kind": tfds.features.ClassLabel(names=["a", "b", "c"]),
        },
        {"train": examples},
        supervised_keys=("picture", "kind"),
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
    files = [png(tmp_path / "png", np.zeros(size, np.uint8)) for size in sizes]
    prepare(
        tmp_path / "data",
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)},
        {"train": [{"image": file, "label": 0} for file in files]},
    )
    with pytest.raises(DataError, match=r"differ in size or kind, such as .*set data\.image_size"):
        tfds_arrays("other", "train", str(tmp_path / "data"))
    assert list((tmp_path / "data").rglob("vit_jax_decoded/*")) == []


def test_an_example_without_a_picture_or_of_another_kind_is_named(tmp_path):
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": io.BytesIO(b"<html>"), "label": 0}] * 2
    prepare(tmp_path / "bad", features, {"train": examples})
    with pytest.raises(BadImageError, match=r"train/000000 is not an image \(an HTML page"):
        tfds_arrays("other", "train", str(tmp_path / "bad"))
    (tmp_path / "png").mkdir()
    images = [np.zeros((4, 4, 3), dtype) for dtype in (np.uint8, np.uint8)]
    images[1] = images[1][..., 0]
    examples = [{"image": png(tmp_path / "png", image), "label": 0} for image in images]
    prepare(tmp_path / "mixed", features, {"train": examples})
    with pytest.raises(DataError, match=r"such as \[4, 4, \d\] uint8 and \[4, 4, \d\] uint8: set"):
        tfds_arrays("other", "train", str(tmp_path / "mixed"))


def test_floats_kept_as_the_bytes_of_pictures_are_refused(tmp_path):
    folder = tmp_path / "other" / "1.0.0"
    grey = tfds.features.Image(shape=(None, None, 1))
    prepare(
        tmp_path,
        {"image": grey, "label": tfds.features.ClassLabel(num_classes=2)},
        {"train": [{"image": io.BytesIO(b""), "label": 0}]},
    )
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["image"]["image"]["dtype"] = "float32"
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(DataError, match=r"other keeps float32 pixels as the bytes of other pict"):
        tfds_arrays("other", "train", str(tmp_path))


@pytest.mark.parametrize("image_size", [None, 32, (32, 32)])
def test_a_set_of_one_size_gives_arrays_where_that_is_asked_for(cifar10, image_size):
    arrays = tfds_arrays("cifar10", "train", str(cifar10.root))
    config = DataConfig(name="cifar10", root=str(cifar10.root), image_size=image_size)
    source = open_source(config, "train")
    equal(source, arrays.images, arrays.labels)
    assert source.fingerprint == arrays.fingerprint
    assert split_names(config) == ["train", "test"]


def test_a_set_of_one_size_is_resized_where_another_is_asked_for(cifar10, own_cifar10):
    arrays = tfds_arrays("cifar10", "train", str(cifar10.root))
    fields = {"name": "cifar10", "train_split": "train", "image_size": (32, 16)}
    source = open_source(DataConfig(root=str(own_cifar10.root), resize="squash", **fields), "train")
    assert isinstance(source, FileSource)
    np.testing.assert_array_equal(source.labels, arrays.labels)
    assert source.class_names == arrays.class_names
    for index in (0, 41, 99):
        reference = Image.fromarray(arrays.images[index]).resize((16, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(source[index]["image"], np.asarray(reference))


def test_a_set_without_image_and_label_is_refused_with_its_features(tmp_path):
    prepare(
        tmp_path / "data",
        {"words": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)},
        {"train": [{"words": "a", "label": 0}]},
        supervised_keys=("words", "label"),
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


@pytest.mark.slow
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
    with pytest.raises(DataError, match=r"holds 7 examples, but its dataset_info.json says \d+"):
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


def test_a_split_with_images_too_many_is_refused(own_cifar10):
    info = own_cifar10.folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"100"', '"90"'))
    with pytest.raises(DataError, match=r"holds 91 examples or more, but its .* says 90: delete"):
        tfds_arrays("cifar10", "train", str(own_cifar10.root))
    assert list(own_cifar10.folder.glob("vit_jax_decoded/*")) == []
