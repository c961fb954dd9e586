"""Arrays in .npz and .npy files: names, types, shapes, labels, memory, and damage."""

import io
import zipfile

import numpy as np
import pytest

from vit_jax.data import arrays, stored
from vit_jax.data.catalog import open_source, open_splits, split_names
from vit_jax.data.source import DataConfig, DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])
WHOLE = {"x_train": IMAGES, "y_train": LABELS}


def stored_as(path, contents, form):
    """Write arrays as keys of an .npz file, or as .npy files of a folder."""
    if form == "npz":
        np.savez(path.with_suffix(".npz"), **contents)
        return path.with_suffix(".npz")
    path.mkdir(exist_ok=True)
    for name, array in contents.items():
        np.save(path / f"{name}.npy", array)
    return path


def config_of(path, **fields):
    return DataConfig(name="arrays", root=str(path), **{"train_split": "train"} | fields)


def opened(path, split="train", **fields):
    return open_source(config_of(path, **fields), split)


@pytest.fixture(params=["npz", "npy"])
def store(request, tmp_path):
    """A function that writes arrays, in one of the two forms; returns the path of `data.root`."""
    return lambda contents: stored_as(tmp_path / "set", contents, request.param)


KERAS = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test")
MEDMNIST = (
    "train_images",
    "train_labels",
    "val_images",
    "val_labels",
    "test_images",
    "test_labels",
)
UPPER = ("X_train", "Y_train", "X_valid", "Y_valid", "X_test", "Y_test")


@pytest.mark.parametrize("names", [KERAS, MEDMNIST, UPPER], ids=["keras", "medmnist", "upper"])
def test_the_usual_names_are_splits(store, names):
    parts = [IMAGES, LABELS[:, None], IMAGES[:2], LABELS[:2, None], IMAGES[3:], LABELS[3:, None]]
    config = config_of(store(dict(zip(names, parts, strict=True))), test_split="auto")
    assert split_names(config) == ["train", "val", "test"]
    for split, part in (("train", slice(0, 6)), ("validation", slice(0, 2)), ("test", slice(3, 6))):
        source = open_source(config, split)
        np.testing.assert_array_equal(source.images, IMAGES[part])
        np.testing.assert_array_equal(source.labels, LABELS[part])
        assert source.labels.dtype == np.int32
        assert source.class_names == ("0", "1", "2")
    opened = open_splits(DataConfig(**{**vars(config), "eval_split": "auto"}))
    assert {use: len(source) for use, source in opened.items()} == {
        "train": 6,
        "eval": 2,
        "test": 3,
    }


def test_images_and_labels_alone_are_train(store):
    config = config_of(store({"images": IMAGES, "labels": LABELS, "note": LABELS}))
    assert split_names(config) == ["train"]
    assert len(open_source(config, "train[2:5]")) == 3
    with pytest.raises(DataError, match=r"split 'test' of .*: there is 'train'; arrays are called"):
        open_source(config, "test")


def test_a_validation_split_may_lack_classes_and_not_add_any(store):
    parts = {"x_val": IMAGES[:2], "y_val": np.array([1, 1])}
    assert opened(store(WHOLE | parts), "val").class_names == ("0", "1", "2")
    for label in (3, -1):
        path = store(WHOLE | parts | {"y_val": np.array([1, label])})
        with pytest.raises(
            DataError, match=rf"y_val.*label {label} of image 1 lies outside .*0\.\.2"
        ):
            opened(path, "val")


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 2), (6, 5, 4, 7)])
def test_images_have_any_number_of_channels(store, shape):
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    source = opened(store(WHOLE | {"x_train": images}))
    channels = shape[3] if len(shape) == 4 else 1
    assert source.image_shape == (5, 4, channels)
    np.testing.assert_array_equal(source.images.reshape(shape), images)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES.astype(np.uint16) * 257, IMAGES.astype(np.uint16) * 257),
        ((IMAGES * np.uint16(257)).astype(">u2"), IMAGES.astype(np.uint16) * 257),
        (IMAGES > 99, np.where(IMAGES > 99, 255, 0).astype(np.uint8)),
        ((IMAGES / 256).astype(np.float16), (IMAGES / 256).astype(np.float32)),
        (IMAGES.astype(np.float32) - 7, IMAGES.astype(np.float32) - 7),
        (IMAGES / 3, (IMAGES / 3).astype(np.float32)),
        (np.asfortranarray(IMAGES), IMAGES),
    ],
    ids=["uint8", "uint16", "big-endian", "bool", "float16", "float32", "float64", "fortran"],
)
def test_types_are_kept_or_made_one_of_three(store, images, expected):
    source = opened(store(WHOLE | {"x_train": images}))
    assert source.dtype == expected.dtype
    assert source.dtype.isnative
    np.testing.assert_array_equal(source.images, expected)


@pytest.mark.parametrize(
    ("images", "fitting"),
    [
        (IMAGES.astype(np.int64), r"int64 from \d+ to 25\d: save images\.astype\(np\.uint8\)"),
        (IMAGES.astype(np.int32) * 100, r"int32 from .*astype\(np\.uint16\)"),
        (IMAGES.astype(np.int16) - 128, r"int16 from -128 to .*astype\(np\.float32\)"),
        (IMAGES.astype(np.uint32) * 1000, r"uint32 from .*astype\(np\.float32\)"),
        (IMAGES.astype(complex), r"holds complex128: save uint8, uint16 or float32"),
        (IMAGES.astype("U3"), r"holds <U3: save uint8, uint16 or float32"),
    ],
)
def test_other_types_are_refused_with_one_that_fits(store, images, fitting):
    with pytest.raises(DataError, match=fitting) as error:
        opened(store(WHOLE | {"x_train": images}))
    assert "x_train" in str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_image_that_is_not_finite_is_named(store, monkeypatch, dtype, value):
    monkeypatch.setattr(arrays, "PART", IMAGES[0].size)  # one image at a time
    images = (IMAGES / 256).astype(dtype)
    images[4, 3, 2, 1] = images[5, 0, 0, 0] = value
    with pytest.raises(DataError, match=r"x_train.*: image 4 holds a NaN, an infinity"):
        opened(store(WHOLE | {"x_train": images}))


def test_a_number_beyond_float32_is_not_finite(store):
    images = IMAGES / 256
    images[2, 0, 0, 0] = 1e39
    with pytest.raises(DataError, match=r"image 2 holds .* beyond float32"):
        opened(store(WHOLE | {"x_train": images}))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 3, 5, 4, 3), r"\[6, 3, 5, 4, 3\], but images are \[n, height, width\]"),
        ((6, 60), r"\[6, 60\], but images are"),
        ((6, 3, 5, 5), r"\[6, 3, 5, 5\], as if the channels came first: save np\.moveaxis"),
        ((6, 1, 5, 6), r"save np\.moveaxis\(images, 1, -1\)"),
        ((0, 5, 5, 3), r"there is not one pixel"),
        ((6, 5, 0, 3), r"there is not one pixel"),
    ],
)
def test_other_shapes_are_refused(store, shape, message):
    with pytest.raises(DataError, match=message) as error:
        opened(store(WHOLE | {"x_train": np.zeros(shape, np.uint8)}))
    assert "x_train" in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], r"holds 6 images, but .*y_train.* 5 labels"),
        (LABELS.astype(float), r"y_train.* holds float64 .*labels are integers.*astype\(np\.int64"),
        (LABELS > 0, r"holds bool of the shape \[6\], but labels are integers"),
        (np.eye(3, dtype=int)[LABELS], r"shape \[6, 3\].*save labels\.argmax\(axis=1\)"),
        (LABELS[:, None, None], r"of the shape \[6, 1, 1\], but labels are integers \[n\]"),
        (LABELS - 1, r"y_train.*, image 1: label -1 is negative"),
        (LABELS * 1000, r"label 2000, but there are 3 different labels"),
        (LABELS * 0, r"y_train.*: there should be two classes or more"),
    ],
)
def test_labels_are_integers_from_0_and_as_many_as_images(store, labels, message):
    with pytest.raises(DataError, match=message):
        opened(store(WHOLE | {"y_train": labels}))


def test_class_names_lie_beside_the_arrays(store):
    names = np.array(["ant", "bée", "cat"])
    assert opened(store(WHOLE | {"class_names": names})).class_names == ("ant", "bée", "cat")
    for wrong, message in (
        (names[:2], r"label 2 of image 0 lies outside the classes 0\.\.1"),
        (names[[0, 1, 0]], "two classes or more, each once"),
        (LABELS[:3], "class_names.* should hold text, one name a class"),
    ):
        with pytest.raises(DataError, match=message):
            opened(store(WHOLE | {"class_names": wrong}))


def test_class_names_in_a_text_file(tmp_path):
    path = stored_as(tmp_path / "set", WHOLE, "npy")
    (path / "class_names.txt").write_bytes("\ufeffant\r\nbée \r\ncat\r\n".encode())
    assert opened(path).class_names == ("ant", "bée", "cat")


def test_splits_of_one_set_are_alike(store):
    others = {"x_val": IMAGES[:, :4], "y_val": LABELS, "x_test": IMAGES / 256, "y_test": LABELS}
    path = store(WHOLE | others)
    with pytest.raises(DataError, match=r"x_val.* holds \[4, 4, 3\] uint8 .*x_train.*\[5, 4, 3\]"):
        opened(path, "val")
    with pytest.raises(DataError, match=r"x_test.* holds \[5, 4, 3\] float32 and .* uint8: all"):
        opened(path, "test")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"x_train": IMAGES}, r"has no 'y_train', only x_train; arrays are called"),
        ({"x": IMAGES, "y": LABELS}, r"holds x, y; arrays are called x_train and y_train"),
        (WHOLE | {"train_images": IMAGES}, r"'train_images' (and|are).* one split; keep one"),
        (WHOLE | {"images": IMAGES}, r"are images of one split; keep one"),
    ],
)
def test_names_that_do_not_tell_are_refused(store, contents, message):
    with pytest.raises(DataError, match=message):
        opened(store(contents))


def test_python_objects_are_never_loaded(store, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    for key in ("x_train", "y_train", "class_names"):
        path = store(WHOLE | {key: np.array([Trap()] * 6)})
        with pytest.raises(DataError, match=rf"{key}.* holds Python objects, which are never"):
            opened(path)
    assert not (tmp_path / "sprung").exists()


WRONG_FILES = {
    "empty": (b"", "it is empty"),
    "html": (b"\n<!DOCTYPE html><title>404</title>", "an HTML page, perhaps a failed download"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "other": (b"\x00\x01\x02\x03", r"begins with b'\\x00\\x01\\x02\\x03'"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_file_without_arrays_is_named_for_what_it_is(tmp_path, kind):
    content, message = WRONG_FILES[kind]
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"set\.npz is no \.npz file \(.*{message}"):
        opened(tmp_path / "set.npz")
    path = stored_as(tmp_path / "set", WHOLE, "npy")
    (path / "y_train.npy").write_bytes(content)
    with pytest.raises(DataError, match=rf"y_train\.npy is no array \(.*{message}"):
        opened(path)


@pytest.mark.parametrize("key", ["x_train", "y_train"])
@pytest.mark.parametrize("missing", [1, 40])
def test_a_truncated_npy_file_is_named(tmp_path, key, missing):
    path = stored_as(tmp_path / "set", WHOLE, "npy")
    file = path / f"{key}.npy"
    file.write_bytes(file.read_bytes()[:-missing])
    with pytest.raises(DataError, match=rf"{key}\.npy is truncated: \d+ of its \d+ bytes"):
        opened(path)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"{key}\.npy cannot be read"):
        opened(path)


def test_a_truncated_npz_file_is_named(tmp_path):
    file = stored_as(tmp_path / "set", WHOLE, "npz")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"set\.npz cannot be read .*damaged or truncated"):
        opened(file)


def test_a_damaged_member_of_an_npz_file_is_named(tmp_path):
    file = tmp_path / "set.npz"
    np.savez_compressed(file, **WHOLE)
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("x_train.npy").header_offset
    content = bytearray(file.read_bytes())
    content[place + 200 : place + 220] = bytes(20)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"key 'x_train' cannot be read .*damaged or truncated"):
        opened(file)


def npy_header(shape):
    """An .npy file that claims a shape and holds 100 bytes."""
    file = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue() + bytes(100)


@pytest.mark.parametrize("shape", [(10**12, 32, 32, 3), (2**62, 5, 5, 3), (-1, 5, 5, 3)])
def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path, shape):
    path = stored_as(tmp_path / "set", WHOLE, "npy")
    (path / "x_train.npy").write_bytes(npy_header(shape))
    with pytest.raises(DataError, match=r"x_train\.npy is truncated: 100 of its"):
        opened(path)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for name in ("x_train", "y_train"):
            archive.write(path / f"{name}.npy", f"{name}.npy")
    with pytest.raises(DataError, match=r"set\.npz, key 'x_train' is truncated: 100 of its"):
        opened(tmp_path / "set.npz")


def test_a_bomb_is_refused_by_its_directory(tmp_path, monkeypatch):
    images = np.zeros((2000, 32, 32, 3), np.uint8)
    np.savez_compressed(tmp_path / "set.npz", x_train=images, y_train=np.arange(2000) % 2)
    assert (tmp_path / "set.npz").stat().st_size < 20_000
    assert opened(tmp_path / "set.npz").images.shape == images.shape
    monkeypatch.setattr(stored, "_memory", lambda: 6_000_000)
    read, members = np.lib.format.read_array, []

    def noted(stream, **options):
        members.append(stream.name)
        return read(stream, **options)

    monkeypatch.setattr(np.lib.format, "read_array", noted)
    with pytest.raises(DataError, match=r"key 'x_train' takes 0\.0 GB, but this machine has"):
        opened(tmp_path / "set.npz")
    assert members == ["y_train.npy"]


def test_npy_files_stay_mapped_whatever_their_size(tmp_path, monkeypatch):
    path = stored_as(tmp_path / "set", WHOLE, "npy")
    monkeypatch.setattr(stored, "_memory", lambda: 100)
    source = opened(path)
    assert isinstance(source.images, np.memmap)
    assert str(source.images.filename) == str(path / "x_train.npy")
    part = opened(path, "train[2:5]")
    assert isinstance(part.images, np.memmap)
    np.testing.assert_array_equal(part.images, IMAGES[2:5])
    with pytest.raises(ValueError, match="read-only"):
        source.images[0] = 0
    stored_as(path, {"x_train": IMAGES / 256}, "npy")  # has to be converted, in memory
    with pytest.raises(DataError, match=r"x_train\.npy takes .* of memory: save uint8"):
        opened(path)


def test_the_fingerprint_follows_images_labels_and_names(store):
    names = {"class_names": np.array(["a", "b", "c"])}
    changed = IMAGES.copy()
    changed[3, 0, 0, 0] ^= 1
    contents = [
        WHOLE,
        WHOLE | {"x_train": changed},
        WHOLE | {"y_train": 2 - LABELS},
        WHOLE | {"x_train": IMAGES.reshape(6, 4, 5, 3)},
        WHOLE | names,
        {key: array[:5] for key, array in WHOLE.items()},
    ]
    found = [opened(store(content)).fingerprint for content in contents]
    assert len(set(found)) == len(found)
    assert opened(store(WHOLE | names)).fingerprint == found[4]


def test_both_forms_are_the_same_data(tmp_path):
    forms = [opened(stored_as(tmp_path / "set", WHOLE, form)) for form in ("npz", "npy")]
    assert forms[0].fingerprint == forms[1].fingerprint


def test_a_root_that_is_no_set_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"needs data\.root"):
        open_source(DataConfig(name="arrays"), "train")
    with pytest.raises(DataError, match="there is no such file or folder; arrays are called"):
        opened(tmp_path / "set.npz")
    with pytest.raises(DataError, match="holds no arrays; arrays are called"):
        opened(tmp_path)
    np.save(tmp_path / "x_train.npy", IMAGES)
    with pytest.raises(DataError, match=r"x_train\.npy is a single array, without labels"):
        opened(tmp_path / "x_train.npy")
