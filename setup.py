"""Installs the ascmamba_modules package.

torch and torchaudio are pinned together: torchaudio ended at 2.11.0 and does
not import beside a newer torch.  mamba-ssm is optional, because its CUDA
kernel has to be compiled (or downloaded) for the machine at hand; releases
after 2.3.2 no longer build the kernel of Mamba-1 by default.
"""

from pathlib import Path

from setuptools import find_packages, setup

TEST = [
    "einops",
    "hypothesis",
    "librosa",
    "networkx",
    "pytest",
    "ruff",
    "tensorboard",
]

setup(
    name="ascmamba",
    version="0.1.0",
    description="Acoustic scene classification with Mamba for SpeechBrain",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["ascmamba_modules*"]),
    python_requires=">=3.10",
    install_requires=[
        "torch==2.11.*",
        "torchaudio==2.11.*",
        "speechbrain>=1.1.2,<1.2",
        "hyperpyyaml>=1.2.3",
        "sentencepiece>=0.2.0",
        "numpy>=1.26",
        "pandas>=2.2",
        "soundfile>=0.12.1",
        "scipy>=1.12",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "filelock>=3.12",
        "tqdm>=4.64",
        "pooch>=1.8",
    ],
    extras_require={
        "cuda": ["mamba-ssm>=2.2.4,<=2.3.2.post1", "causal-conv1d>=1.4"],
        "tensorboard": ["tensorboard"],
        "test": TEST,
        "bench": ["librosa", "mambapy"],
    },
)
