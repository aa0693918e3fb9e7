"""Checkpoints that are written completely or not at all."""

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
