"""``ascmamba info`` on folders good, bad and hostile."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from ascmamba_modules.command_line import main
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.utils import model_size

EXPECTED = """\
format version       2
classes              Bus, Bar, Park
place and time       used
stage                finetune
manifest             clips.csv
train                4 clips
valid                4 clips, macro accuracy 62.5 %, 25.0 % of them from \
sessions in training
data sets            ESC-10 (3), mine (1)
licence of ESC-10    Creative Commons Attribution 3.0
licence of mine      not known
licence of weights   not known
"""


def test_text(model_folder, capsys):
    assert main(["info", str(model_folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in EXPECTED.splitlines():
        assert line.split() in lines
    modules = SceneClassifier.from_hparams(model_folder, freeze_params=False)
    count = sum(p.numel() for p in modules.parameters() if p.requires_grad)
    (size,) = [line for line in lines if line[0] == "size"]
    assert size[1:3] == [f"{count:,}", "parameters,"]


def test_json_and_the_licence_on_the_card(own_folder, capsys):
    card = own_folder / "README.md"
    text = card.read_text().replace("tags:", "license: cc-by-4.0\ntags:", 1)
    card.write_text(text)
    assert main(["info", str(own_folder), "--json"]) == 0
    information = json.loads(capsys.readouterr().out)
    assert information["classes"] == ["Bus", "Bar", "Park"]
    assert information["licence"] == "cc-by-4.0"
    assert information["training"]["scores"] == {"valid": 0.625, "test": None}
    sizes = sum(file.stat().st_size for file in own_folder.iterdir())
    assert information["megabytes"] == pytest.approx(sizes / 1e6, abs=1e-3)


def test_nothing_of_the_folder_runs(own_folder, tmp_path, capsys):
    trap = tmp_path / "trap"
    (own_folder / "hyperparams.yaml").write_text(
        f"evil: !apply:os.system ['touch {trap}']"
    )
    settings = json.loads((own_folder / "settings.json").read_text())
    settings["classes"] = ["\x1b]0;owned\x07Bus", "Bar\r", "Park"]
    (own_folder / "settings.json").write_text(json.dumps(settings))
    assert main(["info", str(own_folder)]) == 0
    out = capsys.readouterr().out
    assert not trap.exists()
    assert "\x1b" not in out and "\r" not in out and "?]0;owned?Bus" in out


@pytest.mark.parametrize("training", [3, [], {}, {"stage": 1}, "x"])
def test_training_of_another_form_is_refused(own_folder, training, capsys):
    settings = json.loads((own_folder / "settings.json").read_text())
    settings["training"] = training
    (own_folder / "settings.json").write_text(json.dumps(settings))
    code = main(["info", str(own_folder)])
    captured = capsys.readouterr()
    if not training:
        assert code == 0 and "not known" in captured.out
        return
    assert code == 2 and "not as this package writes them" in captured.err


def test_folder_without_a_model(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    assert "this is no model folder" in capsys.readouterr().err


def test_info_imports_no_torch(model_folder):
    program = (
        "import sys; from ascmamba_modules.command_line import main; "
        f"code = main(['info', {str(model_folder)!r}]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_limits_hold_for_a_tiny_model_and_not_for_a_large_one(
    model_folder, capsys, monkeypatch
):
    command = ["info", str(model_folder), "--limits", "dcase"]
    assert main(command) == 0
    assert capsys.readouterr().err.count("within the limit") == 2
    count = sum(
        tensor.numel()
        for part in ("model", "context_encoder")
        for tensor in load_file(model_folder / f"{part}.safetensors").values()
    )
    for limits, n_over in [
        ((4 * count - 1, 30e6), 1),
        ((4 * count, 30e6), 0),
        ((2 * count - 1, 1), 2),
    ]:
        monkeypatch.setitem(model_size.LIMITS, "dcase", limits)
        assert main(command) == int(n_over > 0)
        assert capsys.readouterr().err.count("OVER the limit") == n_over
    monkeypatch.setitem(model_size.LIMITS, "dcase", (count, 30e6))
    assert main([*command, "--weights", "int8"]) == 0
