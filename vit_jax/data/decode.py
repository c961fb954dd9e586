"""One encoded picture to an array: the only place where pictures are decoded.

Training, evaluation and prediction go through here, so they see the same pixels.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

import numpy as np

from vit_jax.data.source import CropRounding, DataError, Resampling

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the picture."""


class BadImageError(DataError):
    """A file that holds no picture, a damaged one, or one too large to be meant."""

    def reason(self, name: str) -> str:
        """What is wrong with the file, without its name."""
        return str(self).removeprefix(name).strip()


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What pictures become."""

    height: int
    width: int
    channels: int = 3
    """1 or 3"""
    dtype: str = "uint8"
    """uint8; for greyscale also uint16, and float32 for pixels of any range"""
    keep_proportions: bool = True
    """Cut the centre out instead of stretching the picture."""
    crop_fraction: float = 1.0
    """Share of the sides that is kept; where proportions are, of the largest cut-out's."""
    background: str = "white"
    """Colour under transparent pixels."""
    max_pixels: int = 50_000_000
    found_grey: bool = False
    """One channel because those looked at have one; a picture with colours is an error then."""
    crop_rounding: CropRounding = "none"
    """How the cut falls on whole pixels of the resized picture; none: not at all."""
    interpolation: Resampling = "bicubic"

    def __repr__(self) -> str:
        """A part of fingerprints: fields that came later only count where they are set."""
        later = {"crop_rounding": "none", "interpolation": "bicubic"}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = (f"{k}={v!r}" for k, v in values.items() if later.get(k, self) != v)
        return f"Pixels({', '.join(given)})"


def decode(
    file: io.BufferedIOBase,
    name: str,
    pixels: Pixels,
    choose_box: Callable[[int, int], Box] | None = None,
) -> np.ndarray:
    """The picture in a file, turned as its EXIF says and resized, as [h, w, c].

    Transparent pixels are laid on the background, an animation is its first frame, CMYK and
    palettes become RGB. 16-bit greyscale keeps its range in uint16 and is divided by 256 for uint8.

    Args:
      name: of the file, for messages.
      choose_box: (width, height) of the picture -> the part of it that is resized; None: all of it,
        or its centre, as `pixels` says.

    Raises:
      BadImageError: it cannot be decoded, or has too many pixels.
      DataError: it holds another kind of pixels than `pixels` says.
    """
    from PIL import ExifTags, Image, ImageOps

    with opened(file, name, pixels.max_pixels) as image:
        if pixels.found_grey and not is_grey(image):
            raise DataError(
                f"{name} has colours, but the training images looked at are greyscale: convert it, "
                "or set data.channels=3"
            )
        bits = _bits(image)
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)  # which copies all others as well
        if pixels.dtype == "uint8":
            image = _eight_bits(image, bits, name, pixels)
        else:
            image = _deep(image, bits, name, pixels)
        image.load()
    # Out of the context: what fails from here on is not the file's fault.
    box = choose_box(*image.size) if choose_box else whole_box(image.size, pixels)
    # Pillow's filters are antialiased; the box is cut and resized in one go.
    size, resampling = (pixels.width, pixels.height), pixels.interpolation.upper()
    array = np.asarray(image.resize(size, Image.Resampling[resampling], box=box))
    if pixels.dtype == "uint16":
        array = np.clip(np.round(array), 0, 65535).astype(np.uint16)
    return array.reshape(pixels.height, pixels.width, pixels.channels)


def dtype_of(image: Any) -> str:
    """The dtype that keeps an open picture's pixels as they are."""
    return {8: "uint8", 16: "uint16"}.get(_bits(image), "float32")


def is_grey(image: Any) -> bool:
    return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")


@contextlib.contextmanager
def opened(file: io.BufferedIOBase, name: str, max_pixels: int) -> Iterator[Any]:
    """The picture in a file, by its content, whatever its name; decoded when it is used.

    Raises:
      BadImageError: on opening, or while the picture is used inside the context.
    """
    from PIL import Image

    try:
        with Image.open(cast(IO[bytes], file)) as image:
            if image.format == "EPS":  # for which Pillow starts Ghostscript
                raise BadImageError(f"{name} is PostScript, a program, and not run: save it as PNG")
            if image.width * image.height > max_pixels:
                raise _too_large(name, f"{image.width}x{image.height} pixels", max_pixels)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        claim = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise _too_large(name, claim, max_pixels) from error
    except Image.UnidentifiedImageError as error:
        raise BadImageError(f"{name} is not an image ({_what_it_is(file)})") from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise BadImageError(f"{name} cannot be decoded ({error}): it is damaged") from error


def _too_large(name: str, claim: str, max_pixels: int) -> BadImageError:
    return BadImageError(
        f"{name} claims {claim}, above data.max_pixels={max_pixels:,}: make it smaller, or raise "
        "the limit if you trust it"
    )


def _what_it_is(file: io.BufferedIOBase) -> str:
    """What a file without a picture is, as far as its first bytes tell."""
    file.seek(0)
    start = file.read(512).lstrip().lower()
    size = file.seek(0, 2)
    if size == 0:
        return "it is empty"
    if start.startswith((b"<!doctype html", b"<html")):
        return f"an HTML page of {size:,} bytes, perhaps a failed download"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer: fetch the file itself with `git lfs pull`"
    return f"{size:,} bytes that Pillow does not know"


def _bits(image: Any) -> int:
    """Bits per channel as stored: 8, 16, or 32 for floats and large integers."""
    # Some versions of Pillow read 16-bit PNG and PGM as 32-bit integers, others as 16-bit.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def _eight_bits(image: Any, bits: int, name: str, pixels: Pixels) -> Any:
    """The picture in mode L or RGB; Pillow's own conversion would clip more bits to 255."""
    from PIL import Image

    if bits == 16:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif bits == 32:
        raise DataError(
            f"{name} holds {_kind(image)} pixels, whose range is not known: save it with 8 or 16 "
            "bits, or all images of the set with such pixels"
        )
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, pixels.background), image)
    mode = "L" if pixels.channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _deep(image: Any, bits: int, name: str, pixels: Pixels) -> Any:
    """A greyscale picture in mode F: the values of uint16, or floats as they are."""
    from PIL import Image

    if pixels.dtype == "float32" and bits != 32:
        raise DataError(
            f"{name} holds {bits}-bit pixels, but the training images looked at hold floats or "
            "32-bit integers: their ranges cannot be told apart; save all in one format"
        )
    if pixels.dtype == "uint16" and bits == 32:
        raise DataError(
            f"{name} holds {_kind(image)} pixels, but the training images looked at hold 16 bits: "
            "save it like those"
        )
    if bits == 8:
        return Image.fromarray(np.asarray(image.convert("L"), np.float32) * 257)
    return Image.fromarray(np.asarray(image).astype(np.float32))


def _kind(image: Any) -> str:
    return "floating-point" if image.mode == "F" else "32-bit integer"


def whole_box(size: tuple[int, int], pixels: Pixels) -> Box:
    """All of a picture of (width, height), or the centre with the proportions asked for."""
    if pixels.crop_rounding != "none":
        return _on_whole_pixels(size, pixels)
    (width, height), kept = size, pixels.crop_fraction
    if pixels.keep_proportions:
        scale = min(width / pixels.width, height / pixels.height) * kept
        cut_width, cut_height = pixels.width * scale, pixels.height * scale
    else:
        cut_width, cut_height = width * kept, height * kept
    left, top = (width - cut_width) / 2, (height - cut_height) / 2
    # Rounding may put an edge that is the picture's own a hair outside, where Pillow refuses it.
    return max(0, left), max(0, top), min(width, left + cut_width), min(height, top + cut_height)


def _on_whole_pixels(size: tuple[int, int], pixels: Pixels) -> Box:
    """What torchvision, timm and transformers cut out of the picture they have resized."""
    out = pixels.width, pixels.height
    # The little more makes up for a fraction such as 224 / 249, which floats do not hold exactly.
    resized = tuple(math.floor(side / pixels.crop_fraction + 1e-9) for side in out)
    if pixels.keep_proportions:
        resized = _covering(size, resized)
    edges = []
    for side, new, kept in zip(size, resized, out, strict=True):
        spare = (new - kept) / 2
        first = round(spare) if pixels.crop_rounding == "even" else int(spare)
        edges.append((first * side / new, min(side, (first + kept) * side / new)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _covering(size: tuple[int, int], least: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of a picture of `size`, scaled to cover `least` with one side equal to it."""
    (width, height), (across, down) = size, least
    # timm rounds where the two sides differ; of a square, all round down.
    whole = int if across == down else round
    if width * down <= height * across:
        return across, max(down, whole(across * height / width))
    return max(across, whole(down * width / height)), down
