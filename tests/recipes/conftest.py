"""The demo world and trained models, small, shared by the recipe's tests."""

import shutil

import pytest
import soundfile
from demo.make_corpora import make_demo_corpora
from demo_set import make_demo_set
from recipe_commands import MAMBA, SE_TRANS, command, run_here

from ascmamba_modules.data.manifest import write_manifest


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Three corpora of short clips, to be left as they are."""
    folder = tmp_path_factory.mktemp("world")
    make_demo_corpora(folder, 6, 6, 30, seconds=0.2)
    return folder


@pytest.fixture
def own_world(world, tmp_path):
    """A copy of them, to be changed."""
    return shutil.copytree(world, tmp_path / "wörld 世界")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Sixty synthetic clips of half a second, and their manifest."""
    folder = tmp_path_factory.mktemp("clips")
    table = make_demo_set(folder, clips_per_scene=6, seconds=0.5)
    for wav in table["wav"][::4]:  # shorter ones, so that batches are padded
        samples, rate = soundfile.read(folder / wav)
        soundfile.write(folder / wav, samples[: len(samples) // 2], rate)
    write_manifest(table.assign(duration=""), folder / "manifest.csv")
    return folder / "manifest.csv"


@pytest.fixture(scope="session")
def finished(clips, tmp_path_factory):
    """A finished stage 2, to be left as it is."""
    output = tmp_path_factory.mktemp("finetune")
    log = run_here(
        command(MAMBA, clips, output, number_of_epochs=2, tensorboard=True)
    )
    assert "Clips: 40 train, 10 valid, 10 test" in log
    assert "Selective scan on cpu: engine" in log
    return output


@pytest.fixture(scope="session")
def finished_se_trans(clips, tmp_path_factory):
    """A finished stage 2b, to be left as it is."""
    output = tmp_path_factory.mktemp("finetune_se_trans")
    run_here(command(SE_TRANS, clips, output))
    return output
