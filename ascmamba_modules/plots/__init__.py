"""Plots, each a function that returns a matplotlib figure."""

from ascmamba_modules.plots.calibration import plot_reliability
from ascmamba_modules.plots.classes import plot_confusion, plot_recalls
from ascmamba_modules.plots.clips import (
    plot_embedding,
    plot_similarity,
    plot_spectrogram,
)
from ascmamba_modules.plots.metadata import plot_metadata
from ascmamba_modules.plots.models import plot_bars, plot_curves
from ascmamba_modules.plots.pseudo_labels import plot_pseudo_labels
from ascmamba_modules.plots.style import save_figure
from ascmamba_modules.plots.timeline import plot_timeline

__all__ = [
    "plot_bars",
    "plot_confusion",
    "plot_curves",
    "plot_embedding",
    "plot_metadata",
    "plot_pseudo_labels",
    "plot_recalls",
    "plot_reliability",
    "plot_similarity",
    "plot_spectrogram",
    "plot_timeline",
    "save_figure",
]
