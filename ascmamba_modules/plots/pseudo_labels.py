"""Plot of what stage 3 took as labels."""

import numpy as np
from matplotlib.figure import Figure

# Safe for colour-blind readers (Okabe and Ito).
_COLOURS = {"step 1": "#0072B2", "step 2": "#E69F00", "rejected": "#999999"}


def draw_pseudo_labels(selected, counts):
    """Draws classes and confidences of the clips of each step."""
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    parts = ("step 1", "step 2", "rejected")
    classes = sorted(set(selected["scene_label"]))
    start = np.zeros(len(classes))
    for name in parts:
        clips = counts.loc[name, classes].to_numpy(float)
        left.barh(classes, clips, left=start, color=_COLOURS[name], label=name)
        start += clips
    left.invert_yaxis()
    left.set_xlabel("clips")
    left.legend(loc="best")
    steps = (1, 2, 0)
    right.hist(
        [
            selected.loc[selected["step"] == step, "confidence"]
            for step in steps
        ],
        bins=np.linspace(0, 1, 21),
        stacked=True,
        color=[_COLOURS[name] for name in parts],
    )
    right.set_xlabel("top posterior of the first model")
    right.set_ylabel("clips")
    return figure
