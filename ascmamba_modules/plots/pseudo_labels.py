"""Plot of the pseudo-labels that stage 3 selects."""

import numpy as np

from ascmamba_modules.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    WIDTH,
    add_legend,
    hide_frame,
    new_figure,
    wrap,
)

# Of each part that the counts have, its colour and step.
_PARTS = {
    "step 1": (BLUE, 1),
    "step 2": (ORANGE, 2),
    "session": (VERMILION, 3),
    "rejected": (GREY, 0),
}


def plot_pseudo_labels(selected, counts):
    """Draws the clips of each selection step, by class and confidence.

    Arguments
    ---------
    selected : pandas.DataFrame
        From :func:`ascmamba_modules.pseudo_labels.selection.select`.
    counts : pandas.DataFrame
        From :func:`ascmamba_modules.pseudo_labels.selection.summarise`.

    Returns
    -------
    matplotlib.figure.Figure
        Clips by class, and a histogram of the first model's confidence.
    """
    classes = sorted(set(selected["scene_label"]))
    height = max(3.2, 1.2 + 0.38 * len(classes))
    figure = new_figure("Pseudo-labels by selection step", height, 2 * WIDTH)
    left, right = figure.subplots(1, 2)
    bars, start = [], np.zeros(len(classes))
    parts = {k: v for k, v in _PARTS.items() if k in counts.index}
    for name, (colour, _) in parts.items():
        clips = counts.loc[name, classes].to_numpy(float)
        bars.append(
            left.barh(range(len(classes)), clips, left=start, color=colour)
        )
        start += clips
    left.set_yticks(range(len(classes)), map(wrap, classes))
    left.invert_yaxis()
    left.set_xlabel("clips")
    right.hist(
        [
            selected.loc[selected["step"] == step, "confidence"]
            for _, step in parts.values()
        ],
        bins=np.linspace(0, 1, 21),
        stacked=True,
        color=[colour for colour, _ in parts.values()],
    )
    right.set_xlabel("top posterior of the first model")
    right.set_ylabel("clips")
    for axes in (left, right):
        hide_frame(axes)
    add_legend(figure, bars, list(parts))
    return figure
