"""Posteriors and segments of a long recording over time."""

import numpy as np
import pandas as pd


def posterior_columns(classes, others):
    """Names the columns of posteriors.

    Arguments
    ---------
    classes : list
        Names of the classes.
    others : iterable
        The other columns of the table.

    Returns
    -------
    list
        The classes' names, in p() where another column has the name.

    Example
    -------
    >>> posterior_columns(["Bus", "problem"], ["file", "problem"])
    ['Bus', 'p(problem)']
    """
    return [f"p({name})" if name in others else name for name in classes]


class Timeline:
    """Posteriors of the windows of a recording, in order.

    Arguments
    ---------
    starts, ends : array_like
        Start and end of each window in seconds, both rising.
    posteriors : array_like
        Posteriors (windows, classes).
    classes : list
        Names of the classes.

    Attributes
    ----------
    table : pandas.DataFrame
        A row a window: start and end in seconds, scene_label, the best class,
        and the posterior of each class in a column of its name, see
        :func:`posterior_columns`.
    posteriors : numpy.ndarray
        Posteriors (windows, classes).

    Example
    -------
    >>> posteriors = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]
    >>> timeline = Timeline(
    ...     [0, 5, 10], [10, 15, 20], posteriors, ["Bus", "Bar"]
    ... )
    >>> timeline.segments().round(2)
       start   end scene_label  probability
    0    0.0  12.5         Bus         0.86
    1   12.5  20.0         Bar         0.70
    """

    def __init__(self, starts, ends, posteriors, classes):
        self.posteriors = np.asarray(posteriors)
        self.classes = list(classes)
        best = [self.classes[i] for i in self.posteriors.argmax(1)]
        table = {
            "start": np.asarray(starts, float),
            "end": np.asarray(ends, float),
            "scene_label": best,
        }
        columns = posterior_columns(self.classes, table)
        table.update(zip(columns, self.posteriors.T))
        self.table = pd.DataFrame(table)

    def boundaries(self):
        """Times at which the assignment changes from window to window.

        Windows overlap; each moment is assigned to the window with the
        nearest centre.

        Returns
        -------
        numpy.ndarray
            Seconds (windows + 1), from the start of the recording to its end.
        """
        starts, ends = self.table["start"], self.table["end"]
        centres = ((starts + ends) / 2).to_numpy()
        between = (centres[:-1] + centres[1:]) / 2
        return np.concatenate([starts[:1], between, ends[-1:]])

    def segments(self):
        """Joins neighbouring windows with the same best class.

        Returns
        -------
        pandas.DataFrame
            A row a segment: start and end in seconds, scene_label, and
            probability, the mean posterior of that class.  Each starts where
            the one before it ends, see :meth:`boundaries`.
        """
        bounds = self.boundaries()
        labels = self.table["scene_label"].to_numpy()
        changes = np.flatnonzero(labels[1:] != labels[:-1]) + 1
        edges = np.concatenate([[0], changes, [len(labels)]])
        seconds = np.diff(bounds)
        best = self.posteriors.max(1)
        weighted = np.add.reduceat(best * seconds, edges[:-1])
        return pd.DataFrame(
            {
                "start": bounds[edges[:-1]],
                "end": bounds[edges[1:]],
                "scene_label": labels[edges[:-1]],
                "probability": weighted / np.add.reduceat(seconds, edges[:-1]),
            }
        )

    def plot(self):
        """Draws the posteriors over time, the segments marked.

        Returns
        -------
        matplotlib.figure.Figure
            The first class on top.
        """
        # matplotlib is slow to import, and rarely needed.
        from ascmamba_modules.plots.timeline import plot_timeline

        return plot_timeline(self)
