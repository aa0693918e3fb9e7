"""The demo world, small, for the tests of what reads the corpora."""

import shutil

import pytest
from make_demo_corpora import make_demo_corpora


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Three corpora of short clips, to be left as they are."""
    folder = tmp_path_factory.mktemp("world")
    make_demo_corpora(folder, 6, 6, 30, seconds=0.2, workers=1)
    return folder


@pytest.fixture
def own_world(world, tmp_path):
    """A copy of them, to be changed."""
    return shutil.copytree(world, tmp_path / "wörld 世界")
