"""Model folders for tests of what loads them."""

import shutil

import pytest
import torch
from small_models import write_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A folder with an ASCMamba that uses place and time; leave it as it is."""
    torch.manual_seed(2)  # weights that use place and time
    folder, _ = write_folder(tmp_path_factory.mktemp("stage"))
    return folder


@pytest.fixture
def own_folder(model_folder, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(model_folder, tmp_path / "model")
