"""Every reader, on files made up for $VIT_JAX_FUZZ_SECONDS each; and that a finding is found."""

import contextlib
import io
import os
import time
import warnings

import numpy as np
import pytest
from faults import fuzz, fuzz_targets, sound_files
from faults.fuzz_targets import TARGETS, ReaderError, only
from faults.sound_files import weights_folder

from vit_jax.config import from_json
from vit_jax.data.decode import BadImageError, Pixels, decode
from vit_jax.data.source import DataConfig
from vit_jax.data.table import table_source, table_splits
from vit_jax.weights.pretrained import open_pretrained

SECONDS = float(os.environ.get("VIT_JAX_FUZZ_SECONDS", "5"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_raises_our_own_errors_alone(name):
    assert fuzz.with_hypothesis(TARGETS[name], SECONDS) > 0


def test_fuzzing_starts_from_files_that_are_read(tmp_path):
    for name, number in (("safetensors", 0), ("safetensors", 1), ("npz", 0)):
        (tmp_path / name).write_bytes(sound_files.sound(name)[number])
        assert open_pretrained(tmp_path / name).read()["patch_embed/kernel"].shape == (2, 2, 3, 64)
    for layout, folder in {(layout, path) for (layout, _), path in weights_folder().items()}:
        assert open_pretrained(folder).layout == layout
        assert open_pretrained(folder).preprocessing.class_names == ("ant", "bee")
    lengths = [from_json(content.decode()).steps for content in sound_files.sound("config")]
    assert lengths == [1, None]
    tables = zip((".csv", ".csv", ".jsonl", ".tsv"), sound_files.sound("table"), strict=True)
    for number, (suffix, content) in enumerate(tables):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        config = DataConfig("csv", str(path), image_size=4, channels=3, on_bad_image="skip")
        assert set(table_splits(config)) <= {"train", "test"}
        assert table_source(config, "train").class_names in (("ant", "bee"), ("0", "1"))


@pytest.mark.parametrize("kind", sound_files.pictures())
def test_fuzzing_starts_from_pictures_that_are_decoded(kind):
    mode = kind.split()[1]
    dtype = {"I;16": "uint16", "I": "float32", "F": "float32"}.get(mode, "uint8")
    pixels = Pixels(5, 7, 3 if dtype == "uint8" else 1, dtype)
    refused = kind.startswith("EPS")
    with pytest.raises(BadImageError) if refused else contextlib.nullcontext():
        found = decode(io.BytesIO(sound_files.pictures()[kind]), kind, pixels)
        assert found.std() > 0


def fails(how):
    """What a reader may do wrong."""
    if how == "another error":
        raise KeyError("x")
    if how == "no name":
        raise ValueError("it is damaged")
    if how == "a warning":
        warnings.warn("old", stacklevel=1)
    if how == "no end":
        time.sleep(60)
    if how == "no end, hidden":
        try:
            time.sleep(60)
        except Exception as error:
            raise ValueError("the file is damaged") from error
    if how == "memory":
        np.ones(2**29)
    if how == "memory, hidden":
        try:
            np.ones(2**29)
        except MemoryError as error:
            raise ValueError("the file is damaged") from error


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("another error", KeyError, "x"),
        ("no name", ReaderError, "does not say the file"),
        ("a warning", ReaderError, "UserWarning: old"),
        ("no end", ReaderError, "more than 0.1 s"),
        ("no end, hidden", ReaderError, "more than 0.1 s"),
        ("memory", MemoryError, "Unable to allocate"),
        ("memory, hidden", ReaderError, "more than 1,073,741,824 bytes"),
    ],
)
def test_what_counts_as_a_finding(how, error, message, monkeypatch):
    monkeypatch.setattr(fuzz_targets, "SECONDS", 0.1)
    with pytest.raises(error, match=message), only(ValueError, "the file"):
        fails(how)


def test_our_own_error_that_names_the_file_is_none():
    with only(ValueError, "the file"):
        raise ValueError("the file is damaged")


def test_a_reader_that_trips_over_one_byte_is_caught():
    """Of a table it is enough to change one letter, which Hypothesis does soon."""

    def table(content):
        if b"ant" not in content:
            raise KeyError(content)

    with pytest.raises(KeyError):
        fuzz.with_hypothesis(table, 30)
