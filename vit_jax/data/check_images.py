"""Looking at many encoded images at once: what each holds, and which hold the same bytes."""

import collections
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from vit_jax.data.decode import BadImageError, Box, Pixels, decode, opened
from vit_jax.data.encoded import SAMPLE, Encoded, in_threads, spread
from vit_jax.data.source import DataError

ORIENTATION = 274
"""Tag of EXIF (2.32, section 4.6.4) that says how a picture is turned; 1 is not at all."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one file holds."""

    bytes: int = 0
    """0 where only the header was read."""
    width: int = 0
    """Pixels, as people see the picture; of a header alone, as it is stored."""
    height: int = 0
    mode: str = ""
    """Pillow's, such as RGB."""
    format: str = ""
    """By content, such as JPEG."""
    animated: bool = False
    """There are more frames or pages than the first, which is the one that is used."""
    transparent: bool = False
    turned: bool = False
    misnamed: bool = False
    """The file's name ends as those of another format do."""
    error: str = ""
    """Why training cannot use it; the end of a sentence that begins with its name."""
    skipped: bool = False
    """on_bad_image=skip leaves it out."""


def look_at(encoded: Encoded, pixels: Pixels, full: bool) -> dict[int, Look]:
    """Every image, decoded as for training; or the headers of up to `SAMPLE`, spread over all."""
    indices, suffixes = range(len(encoded)), None
    if full:
        from PIL import Image

        suffixes = Image.registered_extensions()
    else:
        indices = spread(len(encoded), SAMPLE)
    # Pillow warns of odd metadata and of large pictures; those are for `pixels` to judge.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looks = in_threads(lambda index: _look(encoded, index, pixels, suffixes), indices)
        return dict(zip(indices, looks, strict=True))


def identical(
    images: Sequence[Encoded], looks: Sequence[Mapping[int, Look]]
) -> list[list[tuple[int, int]]]:
    """Groups of (split, index) whose files are the same byte by byte, by their first members."""
    sizes = collections.defaultdict(list)
    for split, found in enumerate(looks):
        for index, look in found.items():
            if not look.error:
                sizes[look.bytes].append((split, index))
    candidates = [place for places in sizes.values() if len(places) > 1 for place in places]
    groups = collections.defaultdict(list)
    hashes = in_threads(lambda place: _sha256(images[place[0]], place[1]), candidates)
    for place, sha256 in zip(candidates, hashes, strict=True):
        groups[sha256].append(place)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _look(encoded: Encoded, index: int, pixels: Pixels, suffixes: Mapping[str, str] | None) -> Look:
    """Without `suffixes`, the formats by them, only the header is read."""
    name, seen = encoded.name(index), []

    def whole(width: int, height: int) -> Box:
        seen.append((width, height))
        return 0, 0, width, height

    try:
        with encoded.open(index) as file:
            with opened(file, name, pixels.max_pixels) as image:
                facts = _header(image, name, suffixes)
            size = 0
            if suffixes:
                size = file.seek(0, 2)
                file.seek(0)
                decode(file, name, pixels, whole)
                facts |= {"width": seen[0][0], "height": seen[0][1]}
            return Look(bytes=size, **facts)
    except DataError as error:
        reason = str(error).removeprefix(f"{name} ")
        return Look(error=reason, skipped=isinstance(error, BadImageError))
    except OSError as error:
        return Look(error=f"cannot be read ({error.strerror})", skipped=True)


def _header(image: Any, name: str, suffixes: Mapping[str, str] | None) -> dict[str, Any]:
    """What an open picture says before it is decoded."""
    # Telephones store a second view beside a JPEG and call the whole MPO.
    file_format = "JPEG" if image.format == "MPO" else image.format
    known = (suffixes or {}).get(PurePath(name).suffix.lower(), file_format)
    # Pillow would decode a PNG to look for EXIF that comes after the pixels.
    has_exif = suffixes and (image.format != "PNG" or "exif" in image.info)
    return {
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "format": file_format,
        "animated": image.format != "MPO" and getattr(image, "is_animated", False),
        "transparent": image.has_transparency_data,
        "turned": bool(has_exif) and image.getexif().get(ORIENTATION, 1) != 1,
        "misnamed": known not in (file_format, image.format),
    }


def _sha256(encoded: Encoded, index: int) -> str:
    with encoded.open(index) as file:
        return hashlib.sha256(file.read()).hexdigest()
