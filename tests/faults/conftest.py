"""Uninterrupted runs, which the others have to equal."""

import os

import pytest
from faults import processes


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """All processes share what they compile, where most of their time would go."""
    shared = tmp_path_factory.getbasetemp().parent / "compiled"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in processes.share_compiled(shared).items():
            patch.setitem(os.environ, name, value)
        yield


@pytest.fixture(scope="session")
def config_path(tmp_path_factory):
    """The config of all runs that are stopped and go on."""
    return processes.write_config(tmp_path_factory.mktemp("config"), processes.small_config())


@pytest.fixture(scope="session")
def whole(config_path, tmp_path_factory):
    """The folder of a run that nobody has interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    processes.finish(config_path, folder)
    return folder
