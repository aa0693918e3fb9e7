"""Classifying recordings with a trained model."""

from ascmamba_modules.inference.classifier import SceneClassifier

__all__ = ["SceneClassifier"]
