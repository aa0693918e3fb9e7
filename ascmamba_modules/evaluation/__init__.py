"""Metrics, protocols, calibration, plots."""

from ascmamba_modules.evaluation.scores import macro_accuracy, per_class_table
from ascmamba_modules.evaluation.training_report import write_report

__all__ = ["macro_accuracy", "per_class_table", "write_report"]
