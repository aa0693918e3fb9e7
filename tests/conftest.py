"""Fixtures for all tests: references to compare with, and repeatability."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import hypothesis
import pandas as pd
import pytest
import speechbrain  # registers the modules that the loop below goes through
import torch

# The kernels of the engine triton run without a GPU in Triton's interpreter,
# which must be asked for before they are imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


# Hypothesis asks every loaded module for its file, at which SpeechBrain's
# redirections of old names import what is not installed, and raise.
for _module in list(sys.modules.values()):
    if isinstance(_module, speechbrain.utils.importutils.LazyModule):
        vars(_module).setdefault("__file__", None)

# The same examples on every run, and no limit on the time of one.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("repeatable")

# Tensors are small here: threads would wait for each other, not help.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mamba_ssm_reference():
    """``selective_scan_ref`` and ``Mamba`` of mamba-ssm, run on any device.

    Its Mamba is set to its path in plain PyTorch.
    """
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None:
        pytest.skip("mamba-ssm is not installed, see the Makefile")

    # The compiled kernel is missing, and mamba_ssm/__init__.py imports whole
    # language models: stand-ins for both.
    package = ModuleType("mamba_ssm")
    package.__path__ = list(spec.submodule_search_locations)
    stubs = {
        "mamba_ssm": package,
        "selective_scan_cuda": ModuleType("selective_scan_cuda"),
    }

    def is_stubbed(name):
        return name.split(".")[0] in stubs

    before = {k: v for k, v in sys.modules.items() if is_stubbed(k)}
    for name in before:
        del sys.modules[name]
    sys.modules.update(stubs)
    try:
        ops = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        simple = importlib.import_module("mamba_ssm.modules.mamba_simple")
    finally:
        # Else the package would find a mamba-ssm whose kernel is a stub.
        for name in [name for name in sys.modules if is_stubbed(name)]:
            del sys.modules[name]
        sys.modules.update(before)

    simple.selective_scan_fn = ops.selective_scan_ref
    simple.causal_conv1d_fn = None

    def build_mamba(*args, **options):
        return simple.Mamba(*args, use_fast_path=False, **options)

    return SimpleNamespace(
        selective_scan_ref=ops.selective_scan_ref, Mamba=build_mamba
    )


@pytest.fixture(scope="session")
def shared_data():
    """Folder with real recordings."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ASC_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}; set ASC_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def cas(shared_data):
    """The challenge's true metadata as a manifest."""
    parts = []
    for part, split in (("dev", "train"), ("eval", "evaluation")):
        path = f"cas_metadata/APSIPA2025_GC_ASC_{part}_metadata.csv"
        if not (shared_data / path).is_file():
            pytest.skip(f"no {path} in {shared_data}")
        rows = pd.read_csv(
            shared_data / path, encoding="utf-8-sig", keep_default_na=False
        )
        parts.append(rows.assign(split=split, session=""))
    rows = pd.concat(parts, ignore_index=True)
    return rows.rename(columns={"filename": "ID"})


@pytest.fixture(scope="session")
def randomise():
    """A function that moves all parameters and statistics of a module.

    Parts that start as zeros or ones would hide what they do.
    """

    def move(module):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_()
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
        return module

    return move
