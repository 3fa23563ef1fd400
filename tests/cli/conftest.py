"""A trained run for tests of the command line: made once by the commands themselves, copied by who changes it."""

import shutil

import pytest

from tests.cli.micro_run import CAPTIONED, SILENT, train, write_config, write_shards


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """A folder with a shard set and two configs."""
    folder = tmp_path_factory.mktemp("workshop")
    write_shards(folder / "set")
    write_config(folder / CAPTIONED, folder / "set", captions=True)
    write_config(folder / SILENT, folder / "set", captions=False)
    return folder


@pytest.fixture(scope="session")
def captioned_run(workshop):
    """Six steps of a text-to-video model; not to be changed."""
    assert train(workshop, CAPTIONED, "captioned") == 0
    return workshop / "captioned"


@pytest.fixture(scope="session")
def silent_run(workshop):
    """Two steps of an unconditional model; not to be changed."""
    assert train(workshop, SILENT, "silent", "--config.train.steps=2", "--config.log.eval_every=none") == 0
    return workshop / "silent"


@pytest.fixture
def copied_run(captioned_run, tmp_path):
    """A copy of the text-to-video run, to go on with."""
    shutil.copytree(captioned_run, tmp_path / "run")
    return tmp_path / "run"
