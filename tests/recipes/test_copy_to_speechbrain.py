"""The copy of the recipe in a checkout of SpeechBrain.

What SpeechBrain's own tests of the recipes' consistency demand is asked of a
made-up checkout here.
"""

import ast
import csv
import re

import pytest
from copy_to_speechbrain import NEEDED, TABLE, TARGET, main


def contents(folder):
    """The bytes of each file in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the recipe in it."""
    for name in NEEDED:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    main([str(tmp_path)])
    return tmp_path


@pytest.fixture
def rows(checkout):
    """The rows of the copy's table."""
    with open(checkout / TABLE, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_yaml_file_is_registered_with_files_that_are_there(
    checkout, rows
):
    columns = "Script_file", "Hparam_file", "Data_prep_file", "Readme_file"
    for row in rows:
        for column in columns:
            assert (checkout / row[column]).is_file(), row[column]
        assert row["test_debug_flags"]
    listed = [checkout / row["Hparam_file"] for row in rows]
    assert sorted(listed) == sorted((checkout / "recipes").rglob("*.yaml"))


def test_every_setting_is_read_in_its_script_or_in_its_file(checkout, rows):
    for row in rows:
        script = (checkout / row["Script_file"]).read_text("utf-8")
        text = (checkout / row["Hparam_file"]).read_text("utf-8")
        for name in re.findall(r"^([a-z]\w*):", text, re.MULTILINE):
            read = rf'\["{name}"\]|hparams\.(get\(")?{name}\b'
            assert (
                f"<{name}>" in text
                or re.search(read, script)
                or name == "max_grad_norm"  # a run option of SpeechBrain
            ), f"{row['Hparam_file']}: {name}"


def test_readme_names_what_is_there_and_each_table_row_has_links(
    checkout, rows
):
    folder = checkout / TARGET
    readme = (folder / "README.md").read_text("utf-8")
    assert "](.." not in readme
    assert "pip install -r extra_requirements.txt" in readme
    for name in re.findall(r"(\w+\.py|hparams/[\w/]+\.yaml)", readme):
        assert (folder / name).is_file(), name
    for row in rows:
        for link in f"{row['Result_url']} {row['HF_repo']}".split():
            assert link in readme


def test_scripts_are_complete(checkout):
    folder = checkout / TARGET
    for path in folder.glob("*.py"):
        nodes = ast.parse(path.read_text("utf-8")).body
        functions = [
            node.name for node in nodes if isinstance(node, ast.FunctionDef)
        ]
        assert len(functions) == len(set(functions)), path.name
    trained = (folder / "train.py").read_text("utf-8")
    assert not re.search("^from (training|distillation) ", trained, re.M)
    labels = (folder / "pseudo_label.py").read_text("utf-8")
    assert "\nfrom train import (\n" in labels


def test_twice_is_the_same(checkout, capsys):
    before = contents(checkout)
    main([str(checkout)])
    assert contents(checkout) == before
    assert "python -m pytest tests/consistency" in capsys.readouterr().out


@pytest.mark.parametrize("missing", NEEDED)
def test_other_folders_are_refused(tmp_path, missing):
    for name in NEEDED:
        if not name.startswith(missing):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
    if missing == "tests/recipes":
        assert (tmp_path / "tests").is_dir()
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match="no checkout of SpeechBrain") as error:
        main([str(tmp_path)])
    assert f"it has no folder {missing}" in error.value.code
    assert contents(tmp_path) == before
