"""Installs the ascmamba_modules package.

torch and torchaudio are pinned to the one pair that fits: torchaudio 2.11.0
does not import beside a newer torch, nor torchaudio 2.11.1 beside torch 2.11.0.
mamba-ssm is optional, because its CUDA kernel has to be compiled (or
downloaded) for the machine at hand; releases after 2.3.2 no longer build the
kernel of Mamba-1 by default.

The selective scan for CPUs is compiled here, with nothing but a C compiler.
Without one the installation goes on, and the scan falls back on PyTorch.
"""

import platform
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNELS = Path("ascmamba_modules/selective_scan/cpu/kernels")
# Compiler flags by instruction set; the machine at hand is asked when running.
INSTRUCTION_SETS = {"baseline": ["-DVECTOR_BYTES=16"]}
HAVE_X86 = platform.machine().lower() in ("x86_64", "amd64")
if HAVE_X86:
    INSTRUCTION_SETS["avx2"] = ["-DVECTOR_BYTES=32", "-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = [
        "-DVECTOR_BYTES=64",
        "-mavx512f",
        "-mavx512dq",
        "-mfma",
    ]
STRIP = ["-Wl,--strip-all"] if sys.platform == "linux" else []


class AnyPython(bdist_wheel):
    """Tags the wheel for any Python: the library is loaded with ctypes."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class BuildKernels(build_ext):
    """Compiles kernels.c for each instruction set and type into one library.

    The library is loaded with ctypes, so that it needs no header of Python or
    PyTorch, and its name says nothing of either.
    """

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, extension):
        # No -ffast-math: it would change the arithmetic of the whole process.
        flags = ["-std=gnu11", "-O3", "-ffp-contract=fast"]
        flags += [f"-DHAVE_X86={int(HAVE_X86)}"]
        library = self.compile_all(extension, "library", flags)
        flags += ["-fvisibility=hidden"]
        objects = library + self.compile_all(extension, "threads", flags)
        for name, set_flags in INSTRUCTION_SETS.items():
            for real in ("float", "double"):
                macros = [
                    f"-DREAL={real}",
                    f"-DREAL_IS_DOUBLE={int(real == 'double')}",
                    f"-DKERNELS=kernels_{name}_{real}",
                ]
                objects += self.compile_all(
                    extension,
                    "kernels",
                    flags + set_flags + macros,
                    f"{name}_{real}",
                )
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(extension.name),
            extra_postargs=["-pthread", *STRIP],
        )

    def compile_all(self, extension, stem, flags, variant="common"):
        return self.compiler.compile(
            [
                source
                for source in extension.sources
                if Path(source).stem == stem
            ],
            output_dir=str(Path(self.build_temp, variant)),
            extra_postargs=flags,
        )


EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"]
AV = ["av>=14"]
HTTP = ["fsspec[http]>=2023.5"]
TEST = [
    *AV,
    *EXPORT,
    *HTTP,
    "einops",
    "hypothesis",
    "librosa",
    "mambapy",
    "networkx",
    "pyarrow",
    "pytest",
    "pytest-xdist",
    "ruff",
    "tabulate",
    "tensorboard",
]

setup(
    name="ascmamba",
    version="0.1.0",
    description="Acoustic scene classification with Mamba for SpeechBrain",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0 AND CC-BY-SA-4.0",
    packages=find_packages(include=["ascmamba_modules*"]),
    package_data={
        "ascmamba_modules": ["pretrained/*.csv", "pretrained/*/*"],
        "ascmamba_modules.encoders": ["audioset_tags.txt"],
        "ascmamba_modules.evaluation": ["*.html"],
        "ascmamba_modules.model_folder": ["card.md"],
    },
    ext_modules=[
        Extension(
            "ascmamba_modules.selective_scan.cpu.kernels",
            sources=[str(path) for path in sorted(KERNELS.glob("*.c"))],
            depends=[str(path) for path in sorted(KERNELS.glob("*.h"))],
            optional=True,
        )
    ],
    cmdclass={"bdist_wheel": AnyPython, "build_ext": BuildKernels},
    entry_points={
        "console_scripts": ["ascmamba = ascmamba_modules.command_line:main"]
    },
    python_requires=">=3.10",
    install_requires=[
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "speechbrain>=1.1.2,<1.2",
        "huggingface_hub>=0.25",
        "hyperpyyaml>=1.2.3",
        "sentencepiece>=0.2.0",
        "numpy>=1.26",
        "pandas>=2.2",
        "soundfile>=0.12.1",
        "scipy>=1.12",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "filelock>=3.12",
        "tqdm>=4.64",
        "pooch>=1.8",
        "safetensors>=0.4",
    ],
    extras_require={
        "av": AV,
        "cuda": ["mamba-ssm>=2.2.4,<=2.3.2.post1", "causal-conv1d>=1.4"],
        "export": EXPORT,
        "microphone": ["sounddevice"],
        "parquet": ["pyarrow"],
        "remote": [*HTTP, "s3fs"],
        "tensorboard": ["tensorboard"],
        "test": TEST,
        "bench": ["librosa", "mambapy", "tabulate", "transformers>=5.23"],
    },
)
