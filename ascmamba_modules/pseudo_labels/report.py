"""What stage 3 leaves: stage 4's manifest, what was rejected, a report."""

from pathlib import Path

from ascmamba_modules.data.manifest import COLUMNS
from ascmamba_modules.plots.pseudo_labels import draw_pseudo_labels
from ascmamba_modules.pseudo_labels.selection import (
    REJECTED,
    label_table,
    summarise,
)
from ascmamba_modules.utils.files import replacing, write_csv

MANIFEST = "manifest.csv"


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
        From :func:`ascmamba_modules.pseudo_labels.selection.select`.
    truth : pandas.Series, optional
        True classes by clip, where known.

    Returns
    -------
    pandas.DataFrame
        As from :func:`ascmamba_modules.pseudo_labels.selection.summarise`.
    """
    folder = Path(folder)
    manifest = label_table(table, chosen)[[*COLUMNS, "confidence"]]
    counts = summarise(chosen, truth)
    write_csv(counts.rename_axis("part"), folder / "report.csv", index=True)
    with replacing(folder / "report.png") as temporary:
        draw_pseudo_labels(chosen, counts).savefig(temporary)
    rejected = chosen[chosen["step"] == REJECTED].drop(columns="step")
    rejected["reason"] = [
        f"not among the surest, and the second model says {label}"
        for label in rejected["second_label"]
    ]
    write_csv(rejected.rename_axis("ID"), folder / "rejected.csv", index=True)
    write_csv(manifest, folder / MANIFEST)
    return counts
