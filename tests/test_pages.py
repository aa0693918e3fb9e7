"""What the pages show works as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from ascmamba_modules.data.manifest import COLUMNS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "recipes" / "ASC" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(page, language):
    """The code blocks of a page."""
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, page.read_text("utf-8"), re.DOTALL)


def anchors(page):
    """The anchors that a page's headings have on the web."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def test_modules_outside_the_recipe():
    (example,) = [b for b in blocks(README, "python") if "LogMel" in b]
    names = {}
    exec(example, names)
    assert names["logits"].shape == (2, 4)
    assert names["y"].shape == (2, 1000, 64)


def test_model_in_yaml():
    (example,) = blocks(README, "yaml")
    model = load_hyperpyyaml(example)["model"].eval()
    with torch.no_grad():
        assert model(torch.randn(1, 40, 64)).shape == (1, 4)


@pytest.mark.parametrize("column", COLUMNS)
def test_manifest_columns_are_described(column):
    page = ROOT / "docs" / "manifest.md"
    assert f"| `{column}` |" in page.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_settings_of_the_pages_exist():
    """No page names a YAML file or a script that is not there."""
    recipe = ROOT / "recipes" / "ASC"
    for page in PAGES:
        text = page.read_text("utf-8")
        for name in re.findall(r"hparams/[\w/]+\.yaml", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
        for name in re.findall(r"(?<![\w/*])(\w+\.py) [\w./$-]", text):
            found = list(recipe.rglob(name)) + list(ROOT.rglob(f"s*/{name}"))
            assert found or name == "my_package.py", f"{page.name}: {name}"
