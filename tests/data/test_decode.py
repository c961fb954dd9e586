"""What is decoded, and what is refused before it is."""

import io

import pytest
from PIL import Image

from vit_jax.data.decode import BadImageError, Pixels, decode


def test_postscript_is_not_run(monkeypatch):
    """Pillow would start Ghostscript for it."""
    file = io.BytesIO()
    Image.new("RGB", (7, 5), "red").save(file, "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", pytest.fail)
    with pytest.raises(BadImageError, match=r"a\.png is PostScript, a program, and not run"):
        decode(file, "a.png", Pixels(4, 4))
