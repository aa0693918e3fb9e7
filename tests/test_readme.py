"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from ascmamba_modules.data.manifest import COLUMNS

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, README.read_text("utf-8"), re.DOTALL)


def test_modules_outside_the_recipe():
    (example,) = [b for b in blocks("python") if "LogMel" in b]
    names = {}
    exec(example, names)
    assert names["logits"].shape == (2, 4)
    assert names["y"].shape == (2, 1000, 64)


def test_model_in_yaml():
    (example,) = blocks("yaml")
    model = load_hyperpyyaml(example)["model"]
    with torch.no_grad():
        assert model(torch.randn(1, 20, 64)).shape == (1, 4)


@pytest.mark.parametrize("column", COLUMNS)
def test_manifest_columns_are_described(column):
    assert f"| `{column}` |" in README.read_text("utf-8")
