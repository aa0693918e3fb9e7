"""Every recipe of ``ASC.csv``, run as SpeechBrain runs its own in debug mode.

The columns and what they mean are those of SpeechBrain's ``tests/recipes``:
commands are typed in the repository's root, and the output folder of line n
is ``tests/tmp/ASC_row_n``.  Models are those of the YAML files as shipped.
"""

import csv
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
from demo_set import make_demo_set
from hyperpyyaml import load_hyperpyyaml
from recipe_commands import CPU, run

from ascmamba_modules.data.manifest import write_manifest
from ascmamba_modules.encoders.mobilenet import MobileNet

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = Path(__file__).with_name("ASC.csv")
COLUMNS = [
    *("Task", "Dataset", "Script_file", "Hparam_file", "Data_prep_file"),
    *("Readme_file", "Result_url", "HF_repo"),
    *("test_debug_flags", "test_debug_checks", "performance"),
]
with open(REGISTRY, newline="", encoding="utf-8") as _file:
    ROWS = {
        f"ASC_row_{number:02d}": row
        for number, row in enumerate(csv.DictReader(_file), start=2)
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The repository's root, with clips in ``tests/tmp``, for all rows.

    The folders are links, so that nothing is written into the repository.
    """
    folder = tmp_path_factory.mktemp("root")
    for name in ("ascmamba_modules", "hparams", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    clips = folder / "tests" / "tmp" / "clips"
    table = make_demo_set(clips, clips_per_scene=6, seconds=0.5)
    # All splits and, in training, a clip without a label, in each scene.
    table = table[table.index % 6 != 4]
    table.loc[table.index % 6 == 3, ["scene_label", "label_source"]] = ""
    write_manifest(table, clips / "manifest.csv")
    # The classes of stage 1 are others.
    with open(ROOT / "hparams/pretrain.yaml", encoding="utf-8") as file:
        classes = load_hyperpyyaml(file, {"manifest": ""})["scene_labels"]
    is_labelled = table["scene_label"] != ""
    renamed = dict(zip(table.loc[is_labelled, "scene_label"].unique(), classes))
    table["scene_label"] = table["scene_label"].replace(renamed)
    write_manifest(table, clips / "pretrain.csv")
    # In the place of a published one.
    weights = MobileNet(width=0.1, n_tags=527).state_dict()
    torch.save(weights, folder / "tests" / "tmp" / "mobilenet.pt")
    return folder


def test_columns_and_files():
    with open(REGISTRY, newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == COLUMNS
    for row in ROWS.values():
        for name in COLUMNS[2:6]:
            assert (ROOT / row[name]).is_file(), row[name]
    listed = {(ROOT / row["Hparam_file"]).resolve() for row in ROWS.values()}
    assert len(listed) == len(ROWS)
    assert listed == set((ROOT / "hparams").rglob("*.yaml"))


def finish(root, name):
    """The output folder of a row, which is run unless it was; first the rows
    that it starts from."""
    row = ROWS[name]
    output = root / "tests" / "tmp" / name
    if not output.exists():
        for earlier in re.findall(r"ASC_row_\d+", row["test_debug_flags"]):
            finish(root, earlier)
        run(
            [
                *(row["Script_file"], row["Hparam_file"]),
                *shlex.split(row["test_debug_flags"]),
                *(*CPU, f"--output_folder=tests/tmp/{name}"),
            ],
            folder=root,
        )
    return output


@pytest.mark.parametrize("name", ROWS)
def test_row(root, name):
    output, row = finish(root, name), ROWS[name]
    (files,) = re.findall(r"file_exists=\[(.*?)\]", row["test_debug_checks"])
    for file in files.split(","):
        assert (output / file).is_file(), file
    if (output / "train_log.txt").exists():
        log = (output / "train_log.txt").read_text()
        losses = re.findall(r"(?:train|valid|test) loss: ([^\s,]+)", log)
        assert len(losses) == 2 + ("test/" in files)
        assert all(math.isfinite(float(loss)) for loss in losses)
