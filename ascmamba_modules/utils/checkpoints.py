"""Checkpoints that are written completely or not at all; fitting weights."""

import shutil

from speechbrain.utils.checkpoints import Checkpoint, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

_UNFINISHED = ".saving"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer with atomic checkpoints.

    SpeechBrain writes a checkpoint file by file, first the file that marks it
    as a checkpoint; after a kill meanwhile, training would try to resume from
    an incomplete one.  Here the checkpoint gets its name after the last file.

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
        shutil.rmtree(path, ignore_errors=True)  # an older one of that name
        unfinished.path.rename(path)
        paramfiles = {
            name: path / file.name
            for name, file in unfinished.paramfiles.items()
        }
        return Checkpoint(path, unfinished.meta, paramfiles)

    def _new_checkpoint_dirpath(self):
        return self._before_rename(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name):
        return self._before_rename(super()._custom_checkpoint_dirpath(name))

    def _before_rename(self, final_path):
        self._final_path = final_path
        return self.checkpoints_dir / _UNFINISHED


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
