"""Modules for acoustic scene classification with SpeechBrain.

Source: "ASCMamba: Multimodal Time-Frequency Mamba for Acoustic Scene
Classification", APSIPA ASC 2025 Grand Challenge.
"""

__version__ = "0.1.0"
