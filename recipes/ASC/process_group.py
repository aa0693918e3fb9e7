"""The processes of ``torchrun``: joined, and parted without a crash.

The threads of a Gloo group free the tensors of the last collective, which
takes Python's global lock. A process whose interpreter is ending by then is
aborted ("terminate called without an active exception"), and ``torchrun``
calls the finished training failed. So the threads have to be joined before,
which the group does when nothing refers to it any more.
"""

import gc
from contextlib import contextmanager

import speechbrain as sb
import torch

# Its functions keep the group that there is at its import as their default
# argument, for ever; DistributedDataParallel imports it. Before there is a
# group, they keep none.
import torch.distributed.nn


@contextmanager
def process_group(run_opts):
    """Joins the processes of ``torchrun``, if there are any, and parts them.

    After an exception the group is left alone, because its threads may wait
    for processes that do not come.

    Arguments
    ---------
    run_opts : dict
        SpeechBrain's run options, of which ``distributed_backend`` counts.
    """
    sb.utils.distributed.ddp_init_group(run_opts)
    yield
    if torch.distributed.is_initialized():
        gc.collect()  # models that hold the group are held by cycles
        torch.distributed.destroy_process_group()
