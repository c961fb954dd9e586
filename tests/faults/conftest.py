"""Uninterrupted runs, which the others have to equal."""

import pytest
from faults import processes


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
