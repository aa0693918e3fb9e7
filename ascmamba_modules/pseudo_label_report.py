"""What stage 3 leaves: stage 4's manifest, what was rejected, a report."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ascmamba_modules.files import replacing, write_csv
from ascmamba_modules.manifest import COLUMNS
from ascmamba_modules.pseudo_labels import REJECTED, label_table, summarise

MANIFEST = "manifest.csv"
# Safe for colour-blind readers (Okabe and Ito).
_COLOURS = {"step 1": "#0072B2", "step 2": "#E69F00", "rejected": "#999999"}


def write_pseudo_labels(folder, table, chosen, truth=None):
    """Writes the manifest of stage 4 and tells how it came about.

    ``manifest.csv``, written last, holds labelled and accepted clips, with a
    column confidence; ``rejected.csv`` the others with the reason;
    ``report.csv`` the counts; ``report.png`` classes and confidences.

    Arguments
    ---------
    folder : str or Path
        Where to write.
    table : pandas.DataFrame
        Manifest rows of all clips.
    chosen : pandas.DataFrame
        From :func:`ascmamba_modules.pseudo_labels.select`.
    truth : pandas.Series, optional
        True classes by clip, where known.

    Returns
    -------
    pandas.DataFrame
        The counts, see :func:`ascmamba_modules.pseudo_labels.summarise`.
    """
    folder = Path(folder)
    manifest = label_table(table, chosen)[[*COLUMNS, "confidence"]]
    counts = summarise(chosen, truth)
    write_csv(counts.rename_axis("part"), folder / "report.csv", index=True)
    with replacing(folder / "report.png") as temporary:
        _draw(chosen, counts).savefig(temporary)
    rejected = chosen[chosen["step"] == REJECTED].drop(columns="step")
    rejected["reason"] = [
        f"not among the surest, and the second model says {label}"
        for label in rejected["second_label"]
    ]
    write_csv(rejected.rename_axis("ID"), folder / "rejected.csv", index=True)
    write_csv(manifest, folder / MANIFEST)
    return counts


def _draw(chosen, counts):
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    parts = ("step 1", "step 2", "rejected")
    classes = sorted(set(chosen["scene_label"]))
    start = np.zeros(len(classes))
    for name in parts:
        clips = counts.loc[name, classes].to_numpy(float)
        left.barh(classes, clips, left=start, color=_COLOURS[name], label=name)
        start += clips
    left.invert_yaxis()
    left.set_xlabel("clips")
    left.legend(loc="best")
    steps = (1, 2, REJECTED)
    right.hist(
        [chosen.loc[chosen["step"] == step, "confidence"] for step in steps],
        bins=np.linspace(0, 1, 21),
        stacked=True,
        color=[_COLOURS[name] for name in parts],
    )
    right.set_xlabel("top posterior of the first model")
    right.set_ylabel("clips")
    return figure
