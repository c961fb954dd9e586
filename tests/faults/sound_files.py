"""Small sound files of every kind that is read: what fuzzing starts from."""

import atexit
import functools
import io
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = {"huggingface": "", "timm": "", "torchvision": ".safetensors", "google": ".npz"}


@functools.cache
def weights_folder() -> dict[tuple[str, str], Path]:
    """{(layout, the JSON file in it that is fuzzed): a folder of a small random model}."""
    import jax
    import jax.numpy as jnp

    from vit_jax import ViT, save_pretrained
    from vit_jax.weights.preprocessing import Preprocessing

    top = Path(tempfile.mkdtemp(prefix="fuzz_weights_"))
    atexit.register(shutil.rmtree, top)
    model = ViT(
        patch_size=2, width=64, depth=1, num_heads=1, mlp_dim=2, num_classes=2, image_size=(4, 4)
    ).clone(channels=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)
    pixels = Preprocessing((0.5,) * 3, (0.5,) * 3, ("ant", "bee"))
    for layout, suffix in SUFFIXES.items():
        save_pretrained(top / f"{layout}{suffix}", layout, model, variables, pixels, say=None)
    described = [("huggingface", "config.json"), ("huggingface", "preprocessor_config.json")]
    return {key: top / key[0] for key in [*described, ("timm", "config.json")]}


def _weights_file(layout: str) -> bytes:
    top = next(iter(weights_folder().values())).parent
    path = top / f"{layout}{SUFFIXES[layout]}"
    return (path / "model.safetensors" if path.is_dir() else path).read_bytes()


@functools.cache
def sound(target: str) -> tuple[bytes, ...]:
    """Files that a target reads without an error."""
    if target == "safetensors":
        return tuple(map(_weights_file, ("timm", "torchvision", "huggingface")))
    if target == "npz":
        return (_weights_file("google"), npz({"a.npy": npy("<f4", (2, 3), bytes(24))}, 8))
    if target == "description":
        return tuple((path / name).read_bytes() for (_, name), path in weights_folder().items())
    if target == "config":
        from vit_jax.config import Config, to_json

        return (to_json(Config(steps=1)).encode(), to_json(Config(epochs=2.5)).encode())
    if target == "table":
        return (
            b"path,label\na.png,ant\nb.png,bee\n",
            b'path;label;split\n"a.png";"0";train\nb.png;1;train\nb.png;1;test\n',
            b'{"path": "a.png", "label": 0}\n{"path": "b.png", "label": 1}\n',
            b"\xef\xbb\xbfpath\tlabel\r\na.png\tant\r\nb.png\tbee\r\n",
        )
    return tuple(pictures().values())


def npy(descr: Any, shape: Any, data: bytes, header: str = "", version: int = 1) -> bytes:
    """A .npy file; `header` stands for the Python literal in it."""
    text = header or repr({"descr": descr, "fortran_order": False, "shape": shape})
    encoded = text.encode("utf-8", "surrogatepass") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(encoded) % 65536)
    return b"\x93NUMPY" + bytes((version, 0)) + length + encoded + data


def npz(members: dict[str, bytes], method: int) -> bytes:
    """An archive; `method` is that of zipfile."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


@functools.cache
def pictures() -> dict[str, bytes]:
    """{"FORMAT MODE": a picture of 7x5 pixels}."""
    from PIL import Image

    modes = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "TIFF": ("1", "L", "RGB", "CMYK", "I;16", "I", "F", "LAB"),
        **dict.fromkeys(("GIF", "BMP", "WEBP", "TGA", "ICO", "PCX", "SGI"), ("L", "RGB")),
        **dict.fromkeys(("PPM", "JPEG2000", "EPS", "DDS", "QOI"), ("RGB",)),
    }
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    found = {}
    for kind, of_kind in modes.items():
        for mode in of_kind:
            out, image = io.BytesIO(), Image.effect_noise((7, 5), 60).convert("L")
            image = image if mode in ("L", "I;16", "I", "F") else image.convert("RGB")
            extra = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}
            try:
                image.convert(mode).save(out, kind, **extra)
            except (OSError, ValueError, KeyError):  # a mode that the format or this Pillow lacks
                continue
            found[f"{kind} {mode}"] = out.getvalue()
    return found
