"""Stopping when the validation score no longer improves."""

from speechbrain.utils.checkpoints import register_checkpoint_hooks
from speechbrain.utils.epoch_loop import EpochCounterWithStopper


@register_checkpoint_hooks
class PatientEpochCounter(EpochCounterWithStopper):
    """Counts epochs until the score has not improved for some of them.

    SpeechBrain's counter takes an equal score for an improvement.  Scores of
    a few clips stay equal for long (at 100 %, for ever), so that here only a
    higher one counts.

    Arguments
    ---------
    limit : int
        Epochs at most.
    patience : int
        Epochs without a higher score after which to stop.

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
