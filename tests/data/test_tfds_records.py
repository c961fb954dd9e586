"""Records of TFDS sets by their places: both formats, what is kept, damage, and streaming.

The sets hold photos of different sizes; the real names are those of imagenet2012.
"""

import io
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from data.folders import plain, save
from data.tfds_sets import as_tfrecord, prepare
from tensorflow_datasets.proto import tf_example_pb2

from vit_jax.data import tfds_records
from vit_jax.data.catalog import open_source, open_splits, split_names
from vit_jax.data.decode import BadImageError, decode
from vit_jax.data.encoded import decode_all
from vit_jax.data.order import Order
from vit_jax.data.source import DataConfig, DataError
from vit_jax.data.streaming import StreamingFeed

SPLITS = {"train": range(1, 13), "validation": range(13, 18)}


@pytest.fixture(autouse=True)
def xdg(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg"


def photo(folder, number):
    """A JPEG, or every third time a PNG, of its own size; its red channel tells the number."""
    path = folder / f"{number}.jpg"
    image = plain((10 * number, 0, 50), 20 + number, 30 - number)
    image[: 5 + number, :5] = 255 - image[0, 0]
    options = {"format": "PNG"} if number % 3 == 0 else {"format": "JPEG", "quality": 100}
    save(path, image, **options)
    return path


@pytest.fixture(params=["array_record", "tfrecord", "tfrecord in 5 files"])
def photos(request, tmp_path):
    """The root of a set of photos; labels and classes follow from their numbers."""
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["zero", "one", "two", "three"]),
        "file_name": tfds.features.Text(),
    }
    splits = {
        split: [
            {"image": str(photo(tmp_path, n)), "label": n % 4, "file_name": f"{n}.jpg"}
            for n in numbers
        ]
        for split, numbers in SPLITS.items()
    }
    prepare(tmp_path / "data", features, splits)
    folder = tmp_path / "data" / "other" / "1.0.0"
    if request.param != "array_record":
        as_tfrecord(folder, 5 if "5" in request.param else 1)
    return tmp_path / "data"


def config_of(root, **fields):
    fields = {"train_split": "train", "image_size": (12, 16)} | fields
    return DataConfig(name="tfds:other", root=str(root), **fields)


def opened(root, split="train", **fields):
    return open_source(config_of(root, **fields), split)


def decoded(folder, numbers, pixels):
    """The photos' own files, by the project's one decoder."""
    images = []
    for number in numbers:
        with open(folder / f"{number}.jpg", "rb") as file:
            images.append(decode(file, str(number), pixels))
    return np.stack(images)


def folder_of(root):
    return root / "other" / "1.0.0"


def stored_numbers(root, split):
    """The photos of a split in the order of the records, whatever the files."""
    builder = tfds.builder("other", data_dir=root)
    examples = tfds_records.read_examples(builder, split)
    names = (e.features.feature["file_name"].bytes_list.value[0].decode() for e in examples)
    return [int(name.removesuffix(".jpg")) for name in names]


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_records_are_decoded_as_the_files_they_hold(photos, tmp_path, resize):
    for split, own in (("train", "train"), ("val", "validation"), ("validation", "validation")):
        source = opened(photos, split, resize=resize)
        order = stored_numbers(photos, own)
        assert sorted(order) == list(SPLITS[own])
        assert source.labels.tolist() == [number % 4 for number in order]
        assert source.labels.dtype == np.int32
        assert source.class_names == ("zero", "one", "two", "three")
        assert source.image_shape == (12, 16, 3)
        assert source.name(2) == f"{own}/000002"
        expected = decoded(tmp_path, order, source.pixels)
        np.testing.assert_array_equal(decode_all(source, skip_bad=False).images, expected)
        reversed_part = source.take(np.array([4, 1]))
        np.testing.assert_array_equal(reversed_part[0]["image"], expected[4])
        assert reversed_part.name(1) == f"{own}/000001"
        assert reversed_part[1]["label"] == order[1] % 4


@pytest.mark.parametrize("photos", ["array_record"], indirect=True)  # data_source reads no other
def test_the_order_is_tfdss_own(photos):
    reference = tfds.data_source("other", split="train", data_dir=photos, download=False)
    names = [example["file_name"].decode() for example in reference]
    assert [f"{number}.jpg" for number in stored_numbers(photos, "train")] == names


def test_splits_by_their_usual_names_and_all_at_once(photos):
    config = config_of(photos, eval_split="auto", test_split="auto")
    assert split_names(config) == ["train", "val"]
    sources = open_splits(config)
    assert {use: len(source) for use, source in sources.items()} == {"train": 12, "eval": 5}
    with pytest.raises(DataError, match=r"split 'test' of other: there are 'train', 'validation'"):
        open_source(config, "test")
    with pytest.raises(DataError, match=r"differ in size or kind.*: set data\.image_size"):
        opened(photos, image_size=None)


def test_what_streams_is_what_indexing_gives(photos):
    source = opened(photos)
    order = Order(len(source), batch_size=5, seed=3)
    feed = StreamingFeed(source, order, threads=4)
    try:
        seen = []
        for step in range(2 * feed.steps_per_epoch):
            batch = feed.plan(step)
            for place in np.flatnonzero(batch["mask"]):
                index = int(batch["index"][place])
                seen.append(index)
                np.testing.assert_array_equal(batch["image"][place], source[index]["image"])
                assert batch["label"][place] == source[index]["label"]
    finally:
        feed.close()
    assert sorted(seen) == sorted([*range(12)] * 2)


def test_threads_share_the_open_files(photos, tmp_path):
    source = opened(photos)
    expected = decode_all(source, skip_bad=False).images
    wrong = []

    def read(start):
        for step in range(60):
            index = (start * 7 + step * 5) % len(source)
            if not np.array_equal(source.image(index), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_labels_and_offsets_are_read_once_and_kept_for_the_user(photos, xdg, capsys):
    before = sorted(photos.rglob("*"))
    first = opened(photos)
    said = capsys.readouterr().out
    assert said == "Reading the labels of other/1.0.0, train: all 12 records, once\n"
    assert sorted(photos.rglob("*")) == before
    tfrecord = bool(list(folder_of(photos).glob("*.tfrecord*")))
    kept = {file.name for file in xdg.glob("vit_jax/*/*")}
    assert kept == {"train-label.npy"} | ({"train-offsets.npy"} if tfrecord else set())

    second = opened(photos)
    assert capsys.readouterr().out == ""
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.labels, first.labels)
    np.testing.assert_array_equal(second[7]["image"], first[7]["image"])

    # The training images' labels are of no use to an evaluation.
    opened(photos, "val")
    assert "train" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "short", "empty"])
def test_a_damaged_or_foreign_index_is_made_again(photos, xdg, capsys, damage):
    labels = opened(photos).labels
    for file in xdg.glob("vit_jax/*/*"):
        if damage == "short":
            np.save(file, np.zeros(3, np.int64))
        else:
            os.truncate(file, 0 if damage == "empty" else file.stat().st_size - 5)
    capsys.readouterr()
    source = opened(photos)
    np.testing.assert_array_equal(source.labels, labels)
    assert "Reading the labels" in capsys.readouterr().out
    assert not list(xdg.glob("vit_jax/*/*.tmp*"))


def test_a_set_prepared_anew_has_another_index(photos, capsys):
    opened(photos)
    info = folder_of(photos) / "dataset_info.json"
    os.utime(info, ns=(1, 1))
    capsys.readouterr()
    opened(photos)
    assert "Reading the labels" in capsys.readouterr().out


def test_without_a_cache_folder_the_index_is_made_each_time(photos, xdg, capsys):
    xdg.write_text("a file, no folder")
    labels = [opened(photos).labels.tolist() for _ in range(2)]
    assert labels[0] == labels[1] == [n % 4 for n in stored_numbers(photos, "train")]
    said = capsys.readouterr().out
    assert said.count("Reading the labels") == 2
    assert "cannot be written (Not a directory)" in said


def test_the_fingerprint_follows_the_split_and_the_pixels(photos):
    splits = [opened(photos).fingerprint, opened(photos, "val").fingerprint]
    found = [*splits, opened(photos, image_size=9).fingerprint]
    assert len(set(found)) == 3
    assert opened(photos).fingerprint == found[0]


READ_SENT = """
import pickle, sys
source = pickle.load(open(sys.argv[1], "rb"))
sys.stdout.buffer.write(b"".join(source.image(index).tobytes() for index in (11, 0, 5)))
"""


@pytest.mark.parametrize("photos", ["array_record"], indirect=True)  # of tfrecord none stays open
def test_another_process_opens_the_files_for_itself(photos, tmp_path):
    source = opened(photos)
    expected = b"".join(source.image(index).tobytes() for index in (11, 0, 5))
    (tmp_path / "sent").write_bytes(pickle.dumps(source))  # with files open here by now
    command = [sys.executable, "-c", READ_SENT, str(tmp_path / "sent")]
    assert subprocess.run(command, check=True, capture_output=True).stdout == expected


def test_ten_thousand_records_are_sent_as_their_places(tmp_path):
    photo(tmp_path, 3)
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": str(tmp_path / "3.jpg"), "label": n % 2} for n in range(10)]
    prepare(tmp_path / "data", features, {"train": examples})
    source = opened(tmp_path / "data")
    many = source.take(np.arange(10_000) % 10)
    assert len(pickle.dumps(many)) < 1_000_000


def rewrite(root, change):
    """Write the records of train anew, each as `change(number, example)` says."""
    folder = folder_of(root)
    builder = tfds.builder("other", data_dir=root)
    examples = list(tfds_records.read_examples(builder, "train"))
    raw = [change(number, example) for number, example in enumerate(examples)]
    (file,) = folder.glob("*-train.array_record*")
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for record in raw:
        writer.write(record)
    writer.close()


@pytest.fixture
def own(tmp_path):
    """A set of three examples in array_record, to be changed."""
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=4),
    }
    examples = [{"image": str(photo(tmp_path, n)), "label": n} for n in (1, 2, 3)]
    prepare(tmp_path / "own", features, {"train": examples})
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"<!DOCTYPE html>", r"train/000001 is not an image \(an HTML page"),
        (b"", r"train/000001 is not an image \(it is empty"),
        (None, r"train/000001 cannot be opened \(the record holds no 'image'\)"),
    ],
)
@pytest.mark.parametrize("tfrecord", [False, True])
def test_a_record_without_a_picture_is_bad_and_named(own, image, message, tfrecord):
    def change(number, example):
        if number == 1:
            values = example.features.feature["image"].bytes_list.value
            values[:] = [] if image is None else [image]
        return example.SerializeToString()

    rewrite(own, change)
    if tfrecord:
        as_tfrecord(folder_of(own), 2)
    source = opened(own, channels=3)
    assert source.image(0).shape == source.image(2).shape == (12, 16, 3)
    with pytest.raises(BadImageError, match=message):
        source.image(1)


@pytest.mark.parametrize(
    "label", [-1, 4, None], ids=["none, as TFDS writes it", "beyond the classes", "missing"]
)
def test_a_record_without_a_label_is_refused(own, label):
    def change(number, example):
        if number == 2:
            example.features.feature["label"].int64_list.value[:] = [] if label is None else [label]
        return example.SerializeToString()

    rewrite(own, change)
    with pytest.raises(DataError, match=r"split 'train' of other has labels outside 0\.\.3"):
        opened(own)


def test_a_record_that_is_no_example_is_refused_with_its_file(own):
    rewrite(own, lambda number, example: b"\xff\xff" if number else example.SerializeToString())
    with pytest.raises(DataError, match=r"array_record-00000-of-00001 cannot be read \(.*damaged"):
        opened(own)


def test_records_damaged_after_the_index_was_made_are_bad(own):
    source = opened(own)
    as_tfrecord(folder_of(own), 1)
    tfds_records._reader.cache_clear()
    with pytest.raises(BadImageError, match="train/000001 cannot be opened"):
        source.image(1)
    source = opened(own)
    (file,) = folder_of(own).glob("*train.tfrecord*")
    os.truncate(file, file.stat().st_size - 100)
    assert source.image(0).shape == (12, 16, 3)
    with pytest.raises(
        BadImageError, match=r"train/000002 cannot be opened \(a record of .* bytes"
    ):
        source.image(2)
    file.write_bytes(b"\xff" * 5000)
    with pytest.raises(BadImageError, match="train/000000 cannot be opened"):
        source.image(0)


@pytest.mark.parametrize("missing", [1, 4, 5, 1000])
def test_a_truncated_tfrecord_is_refused_by_its_lengths(own, missing):
    (file,) = as_tfrecord(folder_of(own), 1)
    os.truncate(file, file.stat().st_size - missing)
    with pytest.raises(DataError, match="is truncated") as error:
        opened(own)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("change", ["fewer", "more", "missing"])
@pytest.mark.parametrize("tfrecord", [False, True])
def test_other_numbers_of_records_than_described_are_refused(own, change, tfrecord):
    if tfrecord:
        as_tfrecord(folder_of(own), 1)
    (file,) = folder_of(own).glob("*-train.*")
    if change == "missing":
        file.unlink()
    else:
        info = folder_of(own) / "dataset_info.json"
        wrong = {"fewer": '"4"', "more": '"2"'}[change]
        info.write_text(info.read_text().replace('"3"', wrong))
    expected = {
        "fewer": r"holds 3 .*says 4",
        "more": r"holds 3 .*says 2",
        "missing": "cannot be re",
    }
    with pytest.raises(DataError, match=expected[change]) as error:
        opened(own)
    assert str(file) in str(error.value)


def test_lengths_alone_are_read_for_the_offsets(own, monkeypatch):
    (file,) = as_tfrecord(folder_of(own), 1)
    read = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            read.append(size)
            return super().read(size)

    def open_counting(path, mode, buffering):
        assert (mode, buffering) == ("rb", 0)
        return Counting(path)

    monkeypatch.setattr(tfds_records, "open", open_counting, raising=False)
    offsets = tfds_records._offsets(str(file), 3)
    assert read == [12, 12, 12]
    content = file.read_bytes()
    for offset in offsets:
        length = int.from_bytes(content[offset - 12 : offset - 4], "little")
        example = tf_example_pb2.Example.FromString(content[offset : offset + length])
        assert example.features.feature["image"].bytes_list.value


def test_other_formats_are_refused(own, monkeypatch):
    info = folder_of(own) / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "riegeli"))
    with pytest.raises(DataError, match=r"holds riegeli files, .*--file_format=array_record"):
        opened(own)


def test_imagenet_by_its_real_names(tmp_path):
    names = tfds.builder("imagenet2012", data_dir=tmp_path / "none").info.features["label"].names
    features = {
        "file_name": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=names),
    }
    labels = {"train": [3, 999, 0], "validation": [7, 3]}
    splits, number = {}, 0
    for split, classes in labels.items():
        splits[split] = []
        for label in classes:
            number += 1 + (number % 3 == 1)  # JPEG alone
            path = str(photo(tmp_path, number))
            splits[split].append({"file_name": f"n{number}.JPEG", "image": path, "label": label})
    prepare(tmp_path / "data", features, splits, name="imagenet2012")
    config = DataConfig(
        name="tfds:imagenet2012",
        root=str(tmp_path / "data"),
        train_split="train",
        eval_split="auto",
        test_split="auto",
        image_size=8,
    )
    assert split_names(config) == ["train", "val"]
    sources = open_splits(config)
    assert {use: sorted(source.labels) for use, source in sources.items()} == {
        "train": [0, 3, 999],
        "eval": [3, 7],
    }
    assert len(sources["eval"].class_names) == 1000
    assert sources["eval"].class_names[:2] == ("n01440764", "n01443537")
    assert sources["eval"].name(1) == "validation/000001"
    assert sources["eval"][1]["image"].shape == (8, 8, 3)
