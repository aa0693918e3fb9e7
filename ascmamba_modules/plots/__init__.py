"""Plots of scores, a matplotlib figure each."""

from ascmamba_modules.plots.calibration import plot_reliability
from ascmamba_modules.plots.classes import plot_confusion, plot_recalls
from ascmamba_modules.plots.clips import (
    plot_embedding,
    plot_similarity,
    plot_spectrogram,
)
from ascmamba_modules.plots.models import plot_bars, plot_curves
from ascmamba_modules.plots.style import save_figure

__all__ = [
    "plot_bars",
    "plot_confusion",
    "plot_curves",
    "plot_embedding",
    "plot_recalls",
    "plot_reliability",
    "plot_similarity",
    "plot_spectrogram",
    "save_figure",
]
