"""``ascmamba info`` on folders good, bad and hostile."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from ascmamba_modules.command_line import main
from ascmamba_modules.model_folder.card import facts
from ascmamba_modules.model_folder.config import read_config
from ascmamba_modules.utils import model_size


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_text_is_what_the_card_states(model_folder, capsys):
    assert main(["info", str(model_folder)]) == 0
    lines = [x.split() for x in capsys.readouterr().out.splitlines()]
    expected = facts(read_config(model_folder))
    expected["licence of the weights"] = "unknown"
    assert lines == [f"{k} {v}".split() for k, v in expected.items()]
    assert "classes Bus, Bar, Park".split() in lines


def test_json_and_the_licence_on_the_card(own_folder, capsys):
    card = own_folder / "README.md"
    card.write_text(card.read_text().replace("unknown", "cc-by-4.0", 1))
    assert main(["info", str(own_folder), "--json"]) == 0
    information = json.loads(capsys.readouterr().out)
    assert information["classes"] == ["Bus", "Bar", "Park"]
    assert information["license"] == "cc-by-4.0"
    assert information["training"]["scores"] == {"valid": 0.625, "test": None}


def test_nothing_of_the_folder_runs(own_folder, tmp_path, capsys):
    trap = tmp_path / "trap"
    (own_folder / "hyperparams.yaml").write_text(
        f"evil: !apply:os.system ['touch {trap}']"
    )
    classes = ["\x1b]0;owned\x07Bus", "Bar\r", "Park"]
    change_config(own_folder, classes=classes)
    assert main(["info", str(own_folder)]) == 0
    out = capsys.readouterr().out
    assert not trap.exists()
    assert "\x1b" not in out and "\r" not in out and "?]0;owned?Bus" in out


@pytest.mark.parametrize("training", [3, [1], {"stage": 1}, "x", {}, None])
def test_training_of_another_form_is_refused(own_folder, training, capsys):
    change_config(own_folder, training=training)
    code = main(["info", str(own_folder)])
    captured = capsys.readouterr()
    if not training:
        assert code == 0 and "not known" in captured.out
        return
    assert code == 2 and "not as this package writes it" in captured.err


def test_text_that_is_no_config_is_refused(own_folder, capsys):
    for text in (
        "",
        "{",
        "[]",
        "7",
        '{"classes": 3}',
        "[" * 100_000,
        " " * 2**20,
    ):
        (own_folder / "config.json").write_text(text)
        assert main(["info", str(own_folder)]) == 2
        assert "config.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "README.md", "model"])
@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "/dev/stdin"])
def test_pipes_and_devices_are_not_read(own_folder, name, target, capsys):
    path = own_folder / name
    path.unlink(missing_ok=True)
    if target == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    folder = path if name == "model" else own_folder
    assert main(["info", str(folder)]) == (0 if name == "README.md" else 2)
    captured = capsys.readouterr()
    if name == "README.md":
        assert "not known" in captured.out
    else:
        assert "No finished model in" in captured.err


def test_folder_without_a_model(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    assert "No finished model in" in capsys.readouterr().err


def test_info_imports_no_torch(model_folder):
    program = (
        "import sys; from ascmamba_modules.command_line import main; "
        f"code = main(['info', {str(model_folder)!r}]); "
        "slow = {'torch', 'huggingface_hub', 'pandas'} & set(sys.modules); "
        "sys.exit(code or len(slow))"
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
