"""Samples that are out of scale, cancel each other out or are clipped."""

import numpy as np

BEYOND_ANY_SCALE = 2.0**33
INTEGER_SCALE = 100.0
_LOUD = 4.0
_CANCELLED = 0.01  # power of two channels' mean, of that of the channels
_DEAD = 1e-5  # power of a channel, of that of the loudest
_ROUNDING = 1e-12  # of a variance, of the squared mean
_OFFSET = 0.01
_OFFSET_RATIO = 0.1  # offset, of the root mean square
_CLIPPED = 0.01  # share of the samples


class SampleCheck:
    """Collects statistics of samples, block by block.

    Arguments
    ---------
    channels : int
        Number of channels.

    Example
    -------
    >>> check = SampleCheck(channels=1)
    >>> check.add(np.full((100, 1), 3e4))
    >>> check.problem()
    'samples reach 30000, full scale is 1; divide them by full scale'
    """

    def __init__(self, channels):
        self._n = 0
        self._peak = 0.0
        self._clipped = 0
        self._sums = np.zeros(channels)
        self._products = np.zeros((channels, channels))

    def add(self, samples):
        """Adds samples.

        Arguments
        ---------
        samples : numpy.ndarray
            Samples (time, channels).
        """
        if len(samples) == 0:
            return
        self._n += len(samples)
        peak = max(samples.max(), -samples.min())
        self._peak = np.maximum(self._peak, float(peak))  # keeps NaN
        if peak >= 0.999:
            self._clipped += (np.abs(samples) >= 0.999).mean() * len(samples)
        # Else a large offset would leave nothing of what varies.
        samples = samples.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # see problem()
            self._sums += samples.sum(0)
            self._products += samples.T @ samples

    def problem(self):
        """Tells why a model's answer would mean nothing.

        Returns
        -------
        str
            The reason with its remedy; empty if there is none.
        """
        if not self._peak <= BEYOND_ANY_SCALE:
            return "holds NaN, infinite or meaningless samples; fetch it again"
        if self._peak > INTEGER_SCALE:
            return (
                f"samples reach {self._peak:.0f}, full scale is 1; divide "
                "them by full scale"
            )
        channels = len(self._sums)
        if channels > 1:
            covariance = self._covariance()
            power = covariance.trace() / channels
            mean_power = covariance.mean()  # of the mean over channels
            rounding = _ROUNDING * (self._means() ** 2).max()
            is_varied = power > rounding
            if is_varied and mean_power < 2 * _CANCELLED / channels * power:
                return (
                    "its channels cancel each other out, so that their mean "
                    "is silence; invert one of two channels, or keep only one"
                )
        return ""

    def warnings(self):
        """Tells what may mislead a model.

        Returns
        -------
        list
            A text for each finding.
        """
        if self._n == 0 or self.problem():
            return []
        found = []
        means, powers = self._means(), self._covariance().diagonal()
        dead = np.flatnonzero(powers <= _DEAD * powers.max()) + 1
        if powers.max() > 0 and len(dead):
            found.append(
                f"channel {', '.join(map(str, dead))} of {len(powers)} is "
                "silent, which makes the mean of the channels too quiet"
            )
        offset = means[np.abs(means).argmax()]
        rms = np.sqrt(powers.max() + offset**2)
        if abs(offset) > max(_OFFSET, _OFFSET_RATIO * rms):
            found.append(f"the samples have a constant offset of {offset:.2g}")
        if self._peak > _LOUD:
            found.append(f"samples reach {self._peak:.3g}, full scale is 1")
        elif self._clipped > _CLIPPED * self._n:
            share = self._clipped / self._n
            found.append(f"{share:.0%} of the samples are clipped")
        return found

    def _means(self):
        return self._sums / max(1, self._n)

    def _covariance(self):
        means = self._means()
        return self._products / max(1, self._n) - np.outer(means, means)
