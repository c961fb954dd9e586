"""Pictures for the commands, and a model that needs no disk."""

import pytest
from inference.small_models import small_model, write_pictures

from vit_jax.inference import saved as saved_module


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Four pictures and a file that is none, and the pictures' pixels; the model is a small one."""
    pixels = write_pictures(tmp_path / "photos", 4)
    (tmp_path / "photos" / "01b.jpg").touch()
    monkeypatch.setattr(saved_module, "open_model", lambda model, checkpoint: small_model())
    monkeypatch.chdir(tmp_path)
    return pixels
