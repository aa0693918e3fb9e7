"""The processes of ``torchrun``: joined, and parted without a crash.

The threads of a Gloo group free the tensors of the last collective, which
takes Python's global lock. A process whose interpreter is ending by then is
aborted ("terminate called without an active exception"), and ``torchrun``
calls the finished training failed. So the threads have to be joined before,
which the group does when nothing refers to it any more.
"""

import gc
import sys

import speechbrain as sb
import torch

# Its functions keep the group that there is at its import as their default
# argument, for ever; DistributedDataParallel imports it. Before there is a
# group, they keep none.
import torch.distributed.nn


def run_in_group(function, run_opts):
    """Joins the processes of ``torchrun``, if there are any, and parts them.

    They part after a ``sys.exit`` too. After other exceptions the group is
    left alone, because its threads may wait for processes that do not come.

    Arguments
    ---------
    function : callable
        What to do in between, without arguments.
    run_opts : dict
        SpeechBrain's run options, of which ``distributed_backend`` counts.
    """
    sb.utils.distributed.ddp_init_group(run_opts)
    message = None
    try:
        function()
    except SystemExit as error:
        message = error.code
    # Here no exception keeps what the function had in its hands.
    if torch.distributed.is_initialized():
        gc.collect()  # models that hold the group are held by cycles
        torch.distributed.destroy_process_group()
    if message is not None:
        sys.exit(message)
