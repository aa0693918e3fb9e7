"""Writes the manifest of pseudo-labels, the rejected clips and a report."""

from pathlib import Path

from ascmamba_modules.data.manifest import COLUMNS
from ascmamba_modules.plots import plot_pseudo_labels, save_figure
from ascmamba_modules.pseudo_labels.selection import (
    REJECTED,
    label_table,
    summarise,
)
from ascmamba_modules.utils.files import write_csv

MANIFEST = "manifest.csv"


def write_pseudo_labels(folder, table, selected, truth=None):
    """Writes the manifest of stage 4 and a report.

    ``manifest.csv``, written last, has the labelled and the accepted clips,
    with a column confidence; ``rejected.csv`` the rejected ones with the
    reason; ``report.csv`` the counts; ``report.png`` classes and confidences.

    Arguments
    ---------
    folder : str or Path
        Where to write.
    table : pandas.DataFrame
        Manifest rows of all clips.
    selected : pandas.DataFrame
        From :func:`ascmamba_modules.pseudo_labels.selection.select`.
    truth : pandas.Series, optional
        True classes by clip, where known.

    Returns
    -------
    pandas.DataFrame
        As from :func:`ascmamba_modules.pseudo_labels.selection.summarise`.
    """
    folder = Path(folder)
    manifest = label_table(table, selected)[[*COLUMNS, "confidence"]]
    counts = summarise(selected, truth)
    write_csv(counts.rename_axis("part"), folder / "report.csv", index=True)
    save_figure(plot_pseudo_labels(selected, counts), folder / "report.png")
    rejected = selected[selected["step"] == REJECTED].drop(columns="step")
    rejected["reason"] = [_reason(row) for row in rejected.itertuples()]
    write_csv(rejected.rename_axis("ID"), folder / "rejected.csv", index=True)
    write_csv(manifest, folder / MANIFEST)
    return counts


def _reason(row):
    of_session = getattr(row, "session_label", "")
    if of_session not in ("", row.scene_label):
        return f"other clips of its session are labelled {of_session}"
    return f"not confident enough, and the second model says {row.second_label}"
