"""Folders of images: which files count, in which order, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from data.folders import GREY, RED, make_folder, opened, plain, save
from PIL import Image

from vit_jax.data.catalog import open_source
from vit_jax.data.encoded import decode_all
from vit_jax.data.source import DataConfig, DataError, check_classes


@pytest.fixture
def root(tmp_path):
    """See `make_folder`."""
    return make_folder(tmp_path / "data")


def test_classes_and_files_by_name_and_classes_take_turns(root):
    source = opened(root)
    assert source.class_names == ("a", "b")
    # a/1 (4), b/x (6), a/2 (3), a/30 (2), b/y (5), a/4 (1), by their places in their classes.
    assert source.images[:, 0, 0, 0].tolist() == [4, 6, 3, 2, 5, 1]
    assert source.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert source.labels.dtype == np.int32
    assert source.images.shape == (6, 4, 4, 3)
    assert (source.images[..., 1:] == 0).all()


@pytest.mark.parametrize("cut", [10, 33, 50, 90])
def test_every_slice_holds_the_classes_in_proportion(tmp_path, cut):
    sizes = {"a": 30, "b": 12, "c": 3}
    for name, size in sizes.items():
        for number in range(size):
            save(tmp_path / "train" / name / f"{number:02}.png", plain(GREY))
    for split, share in ((f"train[:{cut}%]", cut), (f"train[{cut}%:]", 100 - cut)):
        counts = np.bincount(opened(tmp_path, split).labels, minlength=3)
        assert np.abs(counts - np.array(list(sizes.values())) * share / 100).max() <= 1


@pytest.mark.parametrize("folder", ["val", "valid", "validation"])
def test_the_validation_split_goes_by_three_names(root, folder):
    save(root / folder / "a" / "1.png", plain(RED))
    save(root / folder / "b" / "1.png", plain(GREY))
    fingerprints = {opened(root, split).fingerprint for split in ("val", "valid", "validation")}
    assert len(fingerprints) == 1
    assert len(opened(root, "validation[:1]")) == 1


def test_two_folders_for_one_split_are_refused(root):
    for folder in ("val", "valid"):
        save(root / folder / "a" / "1.png", plain(RED))
    with pytest.raises(DataError, match=r"val and .*valid are names of one split"):
        opened(root, "val")


def test_hidden_files_and_folders_do_not_count(root):
    expected = opened(root).fingerprint
    for hidden in ("train/a/._1.png", "train/a/.DS_Store", "train/.thumbs/1.png", "train/.notes"):
        save(root / hidden, b"no picture")
    assert opened(root).fingerprint == expected


def test_image_size_is_needed_and_positive(root):
    with pytest.raises(DataError, match=r"needs data\.image_size: .* such as 224"):
        opened(root, image_size=None)
    with pytest.raises(DataError, match=r"data\.image_size=\(4, 0\): should be at least 1 pixel"):
        opened(root, image_size=(4, 0))


def test_a_missing_root_or_split_is_answered_with_what_is_there(root):
    with pytest.raises(DataError, match=r"needs data\.root.*ROOT/SPLIT/CLASS/FILE"):
        open_source(DataConfig(name="folder", image_size=4), "train")
    with pytest.raises(DataError, match=r"there is no such folder, perhaps .*/data; .*ROOT/SPLIT"):
        opened(root.with_name("dada"))
    with pytest.raises(DataError, match=r"split 'test' of .*: there is 'train'; "):
        opened(root, "test")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train/loose.png", r"train/loose\.png is in no class"),
        ("train/empty/.hidden", r"train/empty is empty, but .* classes a, b, empty"),
        ("one/a/1.png", "one should hold the folders of two classes or more, not a"),
        ("none/.hidden", "none should hold the folders of two classes or more, not none"),
        ("val/a/1.png val/c/1.png", r"same classes: only the first has \['c'\], .* second \['b'\]"),
    ],
)
def test_what_does_not_fit_the_layout_is_named(root, entry, message):
    for name in entry.split():
        save(root / name, plain(RED))
    with pytest.raises(DataError, match=message):
        opened(root, entry.partition("/")[0])


def test_links_are_followed_wherever_they_lead(root, tmp_path):
    save(tmp_path / "elsewhere" / "1.png", plain(RED))
    save(tmp_path / "more" / "2.png", plain(GREY))
    (root / "train" / "a" / "5.png").symlink_to(root / "train" / "b" / "x.png")
    (root / "train" / "a" / "6.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "train" / "a" / "inner").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "c").symlink_to(tmp_path / "more")
    source = opened(root)
    assert source.class_names == ("a", "b", "c")
    assert np.bincount(source.labels).tolist() == [7, 2, 1]
    assert sum((image[0, 0] == RED).all() for image in source.images) == 2


@pytest.mark.parametrize("target", ["nowhere.png", "6.png"], ids=["nowhere", "itself"])
def test_links_that_lead_nowhere_are_named(root, target):
    (root / "train" / "a" / "6.png").symlink_to(target)
    with pytest.raises(DataError, match=r"a/6\.png cannot be opened \(.*\); replace it"):
        opened(root)


def test_files_in_folders_of_a_class_belong_to_it(root):
    save(root / "train" / "b" / "inner" / "deep" / "1.png", plain(RED))
    save(root / "train" / "b" / ".trash" / "1.png", plain(RED))
    source = opened(root)
    assert np.bincount(source.labels).tolist() == [4, 3]
    assert source.name(list(source.labels).index(1)) == str(root / "train/b/inner/deep/1.png")


def test_a_root_that_holds_the_classes_is_the_training_split(root):
    within = opened(root / "train")
    np.testing.assert_array_equal(within.images, opened(root).images)
    with pytest.raises(DataError, match=r"split 'val' of .*/train: there is 'train'"):
        opened(root / "train", "val")


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    for name in ("bus", "train", "tram"):
        save(tmp_path / name / "1.png", plain(RED))
    assert opened(tmp_path).class_names == ("bus", "train", "tram")


def test_a_split_whose_train_folder_is_elsewhere_is_read_alone(root):
    for name in "ab":
        save(root / "fold7" / name / "1.png", plain(GREY))
    # What an evaluation on other images than the training's asks for.
    source = opened(root, "fold7", train_split="absent")
    assert source.class_names == ("a", "b")


def test_the_fingerprint_follows_names_labels_and_pixels(root):
    def fingerprint(**fields):
        return opened(root, **fields).fingerprint

    x = root / "train" / "b" / "x.png"
    found = [fingerprint(), fingerprint(image_size=5)]
    x.rename(x.with_name("z.png"))
    found.append(fingerprint())
    x.with_name("z.png").rename(root / "train" / "a" / "x.png")
    found.append(fingerprint())
    (root / "train" / "a" / "x.png").rename(x)
    save(x, plain((6, 0, 1)))
    found.append(fingerprint())
    assert len(set(found)) == len(found)
    save(x, plain((6, 0, 0)))
    assert fingerprint() == found[0]
    moved = root.rename(root.with_name("moved"))
    assert opened(moved).fingerprint == found[0]


def test_nothing_is_written_beside_the_images(root):
    def everything():
        return {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    before = everything()
    opened(root)
    assert everything() == before


def hymenoptera(**fields):
    if "VIT_JAX_TEST_DATA" not in os.environ:
        pytest.skip("VIT_JAX_TEST_DATA, the folder of real data, is not set")
    root = Path(os.environ["VIT_JAX_TEST_DATA"]) / "hymenoptera"
    config = DataConfig(name="folder", root=str(root), train_split="train", **fields)
    return root, *(decode_all(open_source(config, split)) for split in ("train", "val"))


def test_ants_and_bees():
    root, train, val = hymenoptera(image_size=64)
    check_classes([train, val])
    assert train.class_names == ("ants", "bees")
    # The archive holds 123 ants and a placeholder, which says that a photo was not found.
    assert np.bincount(train.labels).tolist() == [124, 121]
    assert np.bincount(val.labels).tolist() == [70, 83]
    assert train.images.shape == (245, 64, 64, 3)
    # The first of the bees, cut and resized in two steps.
    with Image.open(sorted((root / "val" / "bees").glob("*.jpg"))[0]) as image:
        side, left, top = 256, 0, (350 - 256) // 2  # it has 256 x 350 pixels
        square = image.crop((left, top, left + side, top + side))
        expected = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC), int)
    found = val.images[np.flatnonzero(val.labels == 1)[0]]
    # Only at the edge, where the picture goes on beyond the square, may they differ.
    np.testing.assert_array_equal(found[2:-2], expected[2:-2])


def test_real_images_are_the_same_every_time():
    _, train, val = hymenoptera(image_size=(48, 32), resize="squash")
    _, again, _ = hymenoptera(image_size=(48, 32), resize="squash")
    np.testing.assert_array_equal(train.images, again.images)
    assert train.fingerprint == again.fingerprint != val.fingerprint
    assert train.images.shape[1:] == (48, 32, 3)


def test_a_root_that_is_a_file_is_called_one(root):
    save(root.parent / "notes.txt", b"nothing")
    with pytest.raises(DataError, match=r"notes\.txt' is a file, neither a folder nor an archive"):
        opened(root.parent / "notes.txt")
