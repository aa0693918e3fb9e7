"""Checkpoints that are written completely or not at all; fitting weights."""

import hashlib
import json
import os
import random
import shutil
import time

import numpy as np
import torch
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    Checkpoint,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    main_process_only,
)
from speechbrain.utils.logger import get_logger
from yaml import YAMLError

logger = get_logger(__name__)

_UNFINISHED = ".saving"
_DAMAGED = "damaged+"
_CHECKSUMS = "checksums.json"


@register_checkpoint_hooks
class RandomState:
    """State of all random numbers, so that a training resumes with those that
    it would have drawn: Python's, NumPy's and PyTorch's, also on GPUs.

    Example
    -------
    >>> path = getfixture("tmp_path") / "random_state.ckpt"
    >>> RandomState().save(path)
    >>> drawn = torch.rand(3)
    >>> RandomState().load(path)
    >>> bool((torch.rand(3) == drawn).all())
    True
    """

    @mark_as_saver
    def save(self, path):
        """Saves the state."""
        name, keys, *rest = np.random.get_state()
        state = {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
        }
        torch.save(state, path)

    @mark_as_loader
    def load(self, path, end_of_epoch=True):
        """Loads a saved state."""
        del end_of_epoch  # the same
        state = torch.load(path, weights_only=True)
        random.setstate(state["python"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        # A training may go on with other GPUs, or without any.
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer with atomic checkpoints.

    SpeechBrain writes a checkpoint file by file, first the file that marks it
    as a checkpoint; after a kill meanwhile, training would try to resume from
    an incomplete one.  Here the checkpoint gets its name after the last file.

    A checkpoint that is damaged or does not fit is passed over for the next,
    with a warning, and renamed once that one is loaded.  Checkpoints are in
    the order in which they were saved, whatever the clock says.

    Arguments are those of ``speechbrain.utils.checkpoints.Checkpointer``.

    Example
    -------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> folder = getfixture("tmp_path")
    >>> checkpointer = AtomicCheckpointer(folder, {"layer": layer})
    >>> checkpoint = checkpointer.save_checkpoint(name="first")
    >>> [path.name for path in folder.iterdir()]
    ['CKPT+first']
    """

    def save_checkpoint(self, *args, **kwargs):
        """Saves a checkpoint; see ``Checkpointer.save_checkpoint``."""
        if if_main_process():
            shutil.rmtree(self.checkpoints_dir / _UNFINISHED, True)
        unfinished = super().save_checkpoint(*args, **kwargs)
        checkpoint = None
        if unfinished is not None:  # on the main process
            checkpoint = self._rename(unfinished)
        # Otherwise another process may miss the checkpoint, choose others to
        # delete, and wait forever.
        ddp_barrier()
        return checkpoint

    def _rename(self, unfinished):
        path = self._final_path
        _write_checksums(unfinished.path)
        shutil.rmtree(path, ignore_errors=True)  # an older one of that name
        unfinished.path.rename(path)
        paramfiles = {
            name: path / file.name
            for name, file in unfinished.paramfiles.items()
        }
        return Checkpoint(path, unfinished.meta, paramfiles)

    def _save_checkpoint_metafile(
        self, fpath, meta_to_include={}, end_of_epoch=True
    ):
        # SpeechBrain orders by this entry.
        times = [x.meta["unixtime"] for x in self.list_checkpoints()]
        now = max([time.time(), *(saved + 1e-3 for saved in times)])
        meta = {"unixtime": now, **meta_to_include}
        return super()._save_checkpoint_metafile(fpath, meta, end_of_epoch)

    def list_checkpoints(self):
        """Lists the checkpoints whose description can be read."""
        checkpoints = []
        for path in self._list_checkpoint_dirs():
            try:
                (checkpoint,) = self._construct_checkpoint_objects([path])
                checkpoint.meta["unixtime"], checkpoint.meta["end-of-epoch"]
            except (ValueError, KeyError, TypeError, YAMLError):
                continue
            checkpoints.append(checkpoint)
        return checkpoints

    def recover_if_possible(self, *args, **kwargs):
        """Loads the first checkpoint, in the order asked for, that is whole
        and fits; see ``Checkpointer.recover_if_possible``.

        Raises
        ------
        FileNotFoundError
            If there are checkpoints, but none that can be loaded.
        """
        found = self.find_checkpoints(*args, **kwargs)
        readable = {x.path for x in self.list_checkpoints()}
        damaged = {
            path: f"{METAFNAME} cannot be read"
            for path in self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*")
            if path not in readable
        }
        loaded = None
        for checkpoint in found:
            try:
                _check_whole(checkpoint.path)
                self.load_checkpoint(checkpoint)
            except (torch.OutOfMemoryError, MemoryError):
                raise  # not the checkpoint's fault
            except Exception as error:  # damaged bytes raise anything
                damaged[checkpoint.path] = _first_lines(error)
            else:
                loaded = checkpoint
                break
        if damaged and loaded is None:
            reasons = "; ".join(f"{k.name}: {v}" for k, v in damaged.items())
            raise FileNotFoundError(
                f"No checkpoint in {self.checkpoints_dir} can be loaded "
                f"({reasons}): remove that folder to train from the start."
            )
        for path, reason in damaged.items():
            logger.warning(
                "%s is damaged or of another training (%s): %s is used "
                "instead, and that one renamed to %s",
                *(path, reason, loaded.path.name, _DAMAGED + path.name),
            )
            _set_aside(path)
        return loaded

    def _new_checkpoint_dirpath(self):
        return self._before_rename(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name):
        return self._before_rename(super()._custom_checkpoint_dirpath(name))

    def _before_rename(self, final_path):
        self._final_path = final_path
        return self.checkpoints_dir / _UNFINISHED


def _write_checksums(folder):
    """Writes the checksums of a folder's files, all of which reach the disk."""
    sums = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            sums[path.name] = hashlib.sha256(file.read()).hexdigest()
    with open(folder / _CHECKSUMS, "w", encoding="utf-8") as file:
        json.dump(sums, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _check_whole(folder):
    """Raises an error unless a checkpoint's files are as they were saved."""
    path = folder / _CHECKSUMS
    if not path.exists():
        return  # of an earlier version; loading it will tell
    for name, checksum in json.loads(path.read_text("utf-8")).items():
        data = (folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ValueError(f"{name} is not as it was saved")


def _first_lines(error):
    return f"{type(error).__name__}: {' '.join(f'{error}'.split())[:200]}"


@main_process_only
def _set_aside(path):
    aside = path.with_name(_DAMAGED + path.name)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def check_fit(state, own, path):
    """Checks that weights fit a module in every respect.

    Arguments
    ---------
    state : dict
        Weights by name.
    own : dict
        The module's ``state_dict``.
    path : str or Path
        The file of the weights, for the message.

    Raises
    ------
    ValueError
        If names, shapes or types differ, or if values are not finite.
    """
    problems = [f"{name} is missing" for name in own.keys() - state.keys()]
    problems += [f"{name} is unknown" for name in state.keys() - own.keys()]
    for name in own.keys() & state.keys():
        kind, own_kind = (
            (tuple(x.shape), str(x.dtype).removeprefix("torch."))
            for x in (state[name], own[name])
        )
        if kind != own_kind:
            problems.append(f"{name} is {kind}, not {own_kind}")
        elif not state[name].isfinite().all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise ValueError(
            f"{path} does not fit the model: {len(problems)} parameters are "
            f"wrong ({shown}{'' if len(problems) < 6 else ' ...'})."
        )
