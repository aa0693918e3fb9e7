"""Unknown sounds, and sets of possible classes."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ascmamba_modules.inference.reliance import (
    fit_reliance,
    load_reliance,
    save_reliance,
)
from ascmamba_modules.model_folder.parts import RELIANCE as FILE

SIZE, N = 16, 400


def make_clips(seed):
    """Clips around one direction a class, and calibrated posteriors."""
    rng = np.random.default_rng(seed)
    posteriors = rng.dirichlet(np.full(3, 0.4), N)
    targets = np.array([rng.choice(3, p=row) for row in posteriors])
    embeddings = 4 * np.eye(SIZE)[targets] + rng.normal(size=(N, SIZE))
    return embeddings, np.log(posteriors), targets


@pytest.fixture(scope="module")
def reliance():
    embeddings, log_posteriors, targets = make_clips(0)
    groups = np.arange(N) // 4
    return fit_reliance(embeddings, log_posteriors, targets, groups)


def test_unknown_classes_are_told_from_known_ones(reliance):
    embeddings, *_ = make_clips(1)
    known = reliance.knows(torch.tensor(embeddings).float())
    assert known.float().mean() == pytest.approx(0.95, abs=0.03)
    rng = np.random.default_rng(2)
    others = 4 * np.eye(SIZE)[[7] * N] + rng.normal(size=(N, SIZE))
    assert reliance.knows(torch.tensor(others).float()).float().mean() < 0.3


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_true_class_as_often_as_asked(reliance, coverage):
    _, log_posteriors, targets = make_clips(3)
    log_posteriors = torch.tensor(log_posteriors)
    marks = reliance.possible(log_posteriors, coverage)
    found = marks[torch.arange(N), torch.tensor(targets)].float().mean()
    assert found == pytest.approx(coverage, abs=0.05)
    assert (marks.sum(1) >= 1).all()
    assert marks[torch.arange(N), log_posteriors.argmax(1)].all()
    assert not marks.all()


@pytest.mark.parametrize("coverage", [0, 1, 0.999])
def test_coverage_that_the_clips_do_not_tell(reliance, coverage):
    with pytest.raises(ValueError, match="400 clips .* ask for at most 0.99"):
        reliance.possible(torch.zeros(1, 3).log_softmax(1), coverage)


def test_embeddings_of_another_model(reliance):
    with pytest.raises(ValueError, match="have 3 values, not 16"):
        reliance.knows(torch.zeros(1, 3))


def test_too_few_clips():
    embeddings, log_posteriors, targets = make_clips(4)
    with pytest.raises(ValueError, match="of one session"):
        fit_reliance(embeddings, log_posteriors, targets, np.zeros(N))
    two = targets < 2
    with pytest.raises(ValueError, match="1 classes have no held-out clips"):
        fit_reliance(
            embeddings[two], log_posteriors[two], targets[two], targets[two]
        )


def test_file(reliance, tmp_path):
    with pytest.raises(ValueError, match="does not tell when .* train or teac"):
        load_reliance(tmp_path)
    save_reliance(reliance, tmp_path)
    found = load_reliance(tmp_path).tensors
    for name, tensor in reliance.tensors.items():
        torch.testing.assert_close(found[name], tensor)
    # Others may read it, as they may any new file.
    (file,) = tmp_path.iterdir()
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    "change",
    [
        {"scale": torch.zeros(3)},
        {"mean": torch.full((SIZE,), torch.nan)},
        {"centres": torch.zeros(SIZE)},
        {"threshold": torch.zeros(0)},
        {"doubts": torch.zeros(2, 3)},
        {"doubts": None},
    ],
)
def test_damaged_file(reliance, tmp_path, change):
    save_reliance(reliance, tmp_path)
    path = tmp_path / FILE
    tensors = {**load_file(path), **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, path)
    with pytest.raises(ValueError, match=f"{FILE}: {next(iter(change))} "):
        load_reliance(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{FILE} is damaged"):
        load_reliance(tmp_path)
