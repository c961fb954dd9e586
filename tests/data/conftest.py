"""A small CIFAR-10 and CIFAR-100, prepared as the real ones."""

import shutil
import types

import pytest
from data.small_cifar import prepare_small, small_cifar10, small_cifar100


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory):
    """A small CIFAR-10, prepared; not to be changed: see `own_cifar10`."""
    return prepare_small("cifar10", small_cifar10, tmp_path_factory.mktemp("cifar10"))


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory):
    """A small CIFAR-100, prepared; not to be changed."""
    return prepare_small("cifar100", small_cifar100, tmp_path_factory.mktemp("cifar100"))


@pytest.fixture
def own_cifar10(cifar10, tmp_path, monkeypatch):
    """A copy of the small CIFAR-10 for one test: `root`, `folder` of its files, `xdg` cache."""
    root, xdg = tmp_path / "data", tmp_path / "xdg"
    folder = root / "cifar10" / "3.0.2"
    shutil.copytree(
        cifar10.root / "cifar10" / "3.0.2",
        folder,
        ignore=shutil.ignore_patterns("vit_jax_decoded"),
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(xdg))
    yield types.SimpleNamespace(root=root, folder=folder, xdg=xdg)
    folder.chmod(0o755)  # a test may have marked it read-only
