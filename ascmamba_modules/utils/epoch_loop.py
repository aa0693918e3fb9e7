"""Early stopping."""

from speechbrain.utils.checkpoints import register_checkpoint_hooks
from speechbrain.utils.epoch_loop import EpochCounterWithStopper


@register_checkpoint_hooks
class PatientEpochCounter(EpochCounterWithStopper):
    """Counts epochs, and stops once the score no longer improves.

    For SpeechBrain's counter an equal score is an improvement.  On few clips
    scores stay equal for long (at 100 %, forever), so here only a higher one
    is.

    Arguments
    ---------
    limit : int
        Largest number of epochs.
    patience : int
        Number of epochs without a higher score after which to stop.

    Example
    -------
    >>> counter = PatientEpochCounter(limit=10, patience=2)
    >>> for epoch in counter:
    ...     counter.update_metric(0.5)
    >>> epoch
    3
    """

    def __init__(self, limit, patience):
        super().__init__(limit, patience, limit_warmup=0, direction="max")
        self.min_delta = -1e-6
