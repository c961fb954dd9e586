"""Prepared TFDS sets of the tests' own making, in both file formats."""

import json

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorboardX.record_writer import RecordWriter


def prepare(folder, features, splits, name="other", supervised_keys=("image", "label")):
    """Prepare a set in a folder of its own, from examples by split; returns its builder."""

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("5.1.0" if name == "imagenet2012" else "1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised_keys,
            )

        def _split_generators(self, dl_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Made.name = name
    builder = Made(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder


def as_tfrecord(folder, shards=1):
    """Turn a prepared folder into what TFDS's default format is; returns the files of train.

    The framing, checksums included, is written by tensorboardX.
    """
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    files = []
    for split in info["splits"]:
        records = []
        for old in sorted(folder.glob(f"*-{split['name']}.array_record*")):
            reader = ArrayRecordReader(str(old))
            records += reader.read_all()
            reader.close()
            old.unlink()
        lengths = [
            len(records) * (n + 1) // shards - len(records) * n // shards for n in range(shards)
        ]
        split["shardLengths"] = [str(length) for length in lengths]
        remaining = iter(records)
        for number, length in enumerate(lengths):
            name = f"{info['name']}-{split['name']}.tfrecord-{number:05d}-of-{shards:05d}"
            writer = RecordWriter(str(folder / name))
            for _ in range(length):
                writer.write(next(remaining))
            writer.close()
            files += [folder / name] if split["name"] == "train" else []
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return files
