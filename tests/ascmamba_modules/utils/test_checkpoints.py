"""A kill while a checkpoint is being saved leaves the one before."""

import pytest
import torch

from ascmamba_modules.utils.checkpoints import AtomicCheckpointer


class Killed(Exception):
    """Stands for a kill in the middle of saving."""


def test_unfinished_checkpoint_is_never_loaded(tmp_path):
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    parts = {"first": first, "second": second}
    checkpointer = AtomicCheckpointer(tmp_path, parts)
    torch.nn.init.constant_(first.weight, 1.0)
    checkpointer.save_and_keep_only(meta={"epoch": 1})

    def die(obj, path):
        raise Killed

    torch.nn.init.constant_(first.weight, 2.0)
    checkpointer.custom_save_hooks["second"] = die
    with pytest.raises(Killed):
        checkpointer.save_and_keep_only(meta={"epoch": 2})

    again = AtomicCheckpointer(tmp_path, parts)
    assert again.recover_if_possible().meta["epoch"] == 1
    assert first.weight.item() == 1.0
    torch.nn.init.constant_(first.weight, 3.0)
    saved = again.save_and_keep_only(meta={"epoch": 3})
    assert again.recover_if_possible().meta["epoch"] == 3
    assert first.weight.item() == 3.0
    assert saved is None  # as SpeechBrain's
    assert len(list(tmp_path.iterdir())) == 1


def test_best_checkpoint_is_kept(tmp_path):
    layer = torch.nn.Linear(1, 1)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    for epoch, score in enumerate([0.2, 0.9, 0.5, 0.4]):
        meta = {"epoch": epoch, "score": score}
        checkpointer.save_and_keep_only(meta=meta, max_keys=["score"])
    best = checkpointer.find_checkpoint(max_key="score")
    assert best.meta["epoch"] == 1 and best.paramfiles["layer"].exists()
    assert checkpointer.find_checkpoint().meta["epoch"] == 3


def test_order_is_that_of_saving_though_the_clock_goes_back(
    tmp_path, monkeypatch
):
    checkpointer = AtomicCheckpointer(tmp_path, {"a": torch.nn.Linear(1, 1)})
    for epoch, now in enumerate([2e9, 1e9, 1.5e9]):
        monkeypatch.setattr("time.time", lambda: now)  # noqa: B023
        checkpointer.save_checkpoint(meta={"epoch": epoch})
    found = checkpointer.find_checkpoints()
    assert [x.meta["epoch"] for x in found] == [2, 1, 0]
