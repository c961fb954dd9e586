"""Images in folders, ROOT/SPLIT/CLASS/FILE: decoded, resized and held in memory.

Nothing is written beside the images, and no link is followed out of ROOT.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vit_jax.data.source import (
    ArraySource,
    DataConfig,
    DataError,
    declared_size,
    digest,
    parse_split,
)

VALIDATION = ("val", "valid", "validation")
"""Names of one and the same split, whichever of them its folder has."""

LAYOUT = "images of a folder lie in ROOT/SPLIT/CLASS/FILE, such as ROOT/train/ants/1.jpg"


def folder_arrays(config: DataConfig, split: str) -> ArraySource:
    """A whole split of the images in `config.root`, as uint8 [n, h, w, c] of `config.image_size`.

    Classes are the folders of the split, by name, and are the same in all splits. Classes take
    turns in proportion, each with its files by name, so that every slice of a split holds all of
    them. Pixels are greyscale (c = 1) where every file of the training split is, else RGB.
    A transparent picture is shown on white, an animation by its first frame.

    Raises:
      DataError: folders, files or fields are not as they should be; names the file or the field.
    """
    from PIL import Image

    size = declared_size(config)
    if size is None:
        raise DataError(
            "data.name='folder' needs data.image_size: set it to the pixels on a side, or "
            "(height, width), of the images the model takes, such as 224"
        )
    root = _root(config)
    files = _list_files(root, split)
    train = _list_files(root, parse_split(config.train_split)[0])
    if files.class_names != train.class_names:
        names, others = set(files.class_names), set(train.class_names)
        raise DataError(
            f"{files.folder} and {train.folder} should hold the same classes: only the first has "
            f"{sorted(names - others)}, only the second {sorted(others - names)}"
        )
    with warnings.catch_warnings():
        # Pillow raises an error for pictures beyond twice its limit, and only warns below that.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        channels = 1 if _all_grey(train.paths) else 3
        images = _decode_all(files.paths, size, config.resize == "crop", channels)
    names = [path.relative_to(files.folder).as_posix() for path in files.paths]
    checksum = hashlib.sha256(images.reshape(-1).data).hexdigest()
    return ArraySource(
        images,
        files.labels,
        files.class_names,
        fingerprint=digest("folder", names, files.labels.tobytes(), images.shape, checksum),
    )


@dataclasses.dataclass(frozen=True)
class _Files:
    """What a split holds; `labels` int32 [n] are places in `class_names`."""

    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise DataError(f"data.name='folder' needs data.root, the folder of the data: {LAYOUT}")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        beside = [path.name for path in root.parent.glob("*") if path.is_dir()]
        near = difflib.get_close_matches(root.name, beside, n=3)
        hint = f", perhaps {' or '.join(str(root.parent / name) for name in near)}" if near else ""
        raise DataError(f"data.root={config.root!r}: there is no such folder{hint}; {LAYOUT}")
    return root


def _list_files(root: Path, split: str) -> _Files:
    folder = _split_folder(root, split)
    classes = _entries(folder, root)
    for path in classes:
        if not path.is_dir():
            raise DataError(f"{path} is in no class: {LAYOUT}; move it there, or out of {folder}")
    if len(classes) < 2:
        names = ", ".join(path.name for path in classes) or "none"
        raise DataError(f"{folder} should hold the folders of two classes or more, not {names}")
    found = []
    for label, class_folder in enumerate(classes):
        files = _entries(class_folder, root)
        if not files:
            raise DataError(f"{class_folder} is empty: put its images there, or delete the folder")
        for rank, path in enumerate(files):
            if not path.is_file():
                raise DataError(f"{path} is no file: {LAYOUT}, without folders or links between")
            found.append(((rank + 0.5) / len(files), label, path))
    found.sort(key=lambda item: item[:2])
    return _Files(
        folder,
        class_names=tuple(path.name for path in classes),
        paths=tuple(path for _, _, path in found),
        labels=np.array([label for _, label, _ in found], np.int32),
    )


def _split_folder(root: Path, split: str) -> Path:
    names = VALIDATION if split in VALIDATION else (split,)
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    found = [path for path in folders if path.name in names]
    if not found:
        there = ", ".join(repr(path.name) for path in folders) or "no folder"
        raise DataError(f"split {split!r} of {root}: there is {there}; {LAYOUT}")
    if len(found) > 1:
        both = " and ".join(str(path) for path in found)
        raise DataError(f"split {split!r} of {root}: {both} are names of one split; keep one")
    return _inside(root, found[0])


def _entries(folder: Path, root: Path) -> list[Path]:
    """What a folder inside `root` holds, by name, without what is hidden."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(map(functools.partial(_inside, root), visible), key=lambda path: path.name)


def _inside(root: Path, path: Path) -> Path:
    """The path itself; a DataError where it is a link that leads out of `root`."""
    target = os.path.realpath(path) if path.is_symlink() else None
    if target is not None and not Path(target).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{path} is a link out of {root}, to {target}, and is not followed: put the images "
            "themselves in its place"
        )
    return path


def _decode_all(
    paths: tuple[Path, ...], size: tuple[int, int], crop: bool, channels: int
) -> UInt8[np.ndarray, "n h w c"]:
    images = np.empty((len(paths), *size, channels), np.uint8)
    # Pillow decodes and resizes without holding Python's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        decoded = pool.map(lambda path: _decode(path, size, crop, channels), paths)
        for place, image in enumerate(decoded):
            images[place] = image
    return images


def _decode(
    path: Path, size: tuple[int, int], crop: bool, channels: int
) -> UInt8[np.ndarray, "h w c"]:
    """One file: turned as its EXIF says, of 8 bits, without transparency, resized."""
    from PIL import Image, ImageOps

    height, width = size
    with _opened(path) as image:
        if channels == 1 and not _is_grey(image):
            raise DataError(
                f"{path} has colours, but every training image is greyscale: save it as "
                "greyscale, or one of the training images as RGB"
            )
        image = _eight_bits(ImageOps.exif_transpose(image), image.format, path)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        # Bicubic in Pillow is antialiased. `fit` cuts and resizes in one go: a picture that is a
        # thousand times as wide as high is never blown up whole.
        if crop:
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        else:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(height, width, channels)


def _eight_bits(image: Any, file_format: str | None, path: Path) -> Any:
    """The picture with 8 bits a channel; Pillow itself would clip more than that to 255."""
    from PIL import Image

    # Some versions of Pillow read 16-bit PNG and PGM as 32-bit integers, others as 16-bit.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise DataError(
            f"{path} holds {kind} pixels, whose range is not known: save it with 8 or 16 bits"
        )
    return image


def _all_grey(paths: tuple[Path, ...]) -> bool:
    """Reads headers alone, and no further than to the first file that has colours."""
    for path in paths:
        with _opened(path) as image:
            if not _is_grey(image):
                return False
    return True


def _is_grey(image: Any) -> bool:
    return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The picture in a file, by its content, whatever its name; a DataError where it has none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} claims more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller, or "
            "remove it"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"{path} is no image that Pillow can read ({path.stat().st_size:,} bytes): replace it, "
            "remove it, or hide it behind a name that begins with a dot"
        ) from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise DataError(
            f"{path} cannot be decoded ({error}): it is damaged; replace it, or remove it"
        ) from error
