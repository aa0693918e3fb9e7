"""The command as a process: help, start-up, and how it ends."""

import subprocess
import sys

import pytest

from ascmamba_modules.command_line import main

COMMAND = [sys.executable, "-m", "ascmamba_modules.command_line"]
SUBCOMMANDS = (
    *("classify", "timeline", "listen", "manifest", "teach"),
    *("info", "export"),
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_command_runs(arguments):
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    assert "ascmamba" in done.stdout


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_has_examples(name, capsys):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"examples:\n  ascmamba {name} " in shown


def test_help_lists_commands_and_exit_codes(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for text in (*SUBCOMMANDS, "exit codes"):
        assert text in shown


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["clasify", "a.wav"],
        ["classify"],
        ["classify", "a.wav", "--model", "m", "--batch-size", "0"],
        ["classify", "a.wav", "--model", "m", "--precision", "fp8"],
        ["timeline", "a.wav", "--model", "m", "--format", "textgrid"],
        ["timeline", "a.wav", "--model", "m", "--hop", "-1"],
        ["timeline", "a.wav", "--model", "m", "--window", "soon"],
    ],
)
def test_wrong_usage(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: ascmamba" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ascmamba_modules.command_line import main; "
        "main(['classify', '--help']); main(['classify']); "
        "print([m for m in ('torch', 'numpy', 'pandas', 'soundfile') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout.endswith("[]\n")


def test_interruption_is_no_traceback(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ascmamba_modules.command_line.timeline.run", interrupt)
    assert main(["timeline", "a.wav", "--model", "m"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_full_memory_is_no_traceback(monkeypatch, capsys):
    def fill(arguments):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr("ascmamba_modules.command_line.timeline.run", fill)
    assert main(["timeline", "a.wav", "--model", "m"]) == 2
    assert "take a smaller --batch-size" in capsys.readouterr().err
