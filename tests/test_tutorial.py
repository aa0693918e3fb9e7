"""The tutorial runs from top to bottom, and is shown as it runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text("utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def shell(command):
    """What a line that begins with ! does."""
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def test_it_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    for name in ("hparams", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path / "docs")
    monkeypatch.setattr(sys, "path", sys.path[:])
    names = {"shell": shell, "Image": Path}
    for cell in CELLS:
        source = "".join(cell["source"])
        source = source.replace("from IPython.display import Image", "")
        source = re.sub(
            r"^!((?:.*\\\n)*.*)$",
            lambda found: f"print(shell({found[1]!r}))",
            source,
            flags=re.MULTILINE,
        )
        exec(compile(source, "tutorial", "exec"), names)
    printed = capsys.readouterr().out
    assert "tutorial/tone.wav,unknown" in printed
    assert "Macro accuracy, devices" in printed
    labels = names["timeline"].segments()["scene_label"]
    assert {"Bus", "Restaurant", "Urban park"} <= set(labels)
    assert (tmp_path / "docs" / "tutorial" / "walk.png").exists()


def test_outputs_are_kept():
    assert all(cell["outputs"] for cell in CELLS[1:])
    text = json.dumps(NOTEBOOK)
    assert "image/png" in text and "Traceback" not in text
    assert not re.search(r"/(root|work|tmp)/", text)
