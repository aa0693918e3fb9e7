"""Commands one after another: skipped, resumed, refused, ended."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hyperpyyaml import load_hyperpyyaml
from stages import RECIPE, Stage, options, read_systems, run_stages

WRITE = "import sys; open(sys.argv[2], 'w').write(sys.argv[4])"


def write(path, text="x"):
    """A stage that writes a file."""
    words = (WRITE, "--to", str(path), "--text", text)
    return Stage(path.stem, f"write {path.stem}", "-c", words, path)


def fail(path):
    words = ("import sys; print('reason'); sys.exit('no space left')",)
    return Stage(path.stem, "fail", "-c", words, path)


@pytest.fixture
def stages(tmp_path):
    return [write(tmp_path / f"{name}.txt") for name in "abc"]


def test_finished_stages_are_skipped(stages, tmp_path, capfd):
    run_stages(stages, tmp_path)
    lines = capfd.readouterr().out.splitlines()
    for number, (name, line) in enumerate(zip("abc", lines, strict=True), 1):
        assert re.fullmatch(rf" {number} of 3  write {name}: \d+ s.*", line)
    (tmp_path / "a.txt").write_text("kept")
    stages[1].result.unlink()
    run_stages(stages, tmp_path)
    assert (tmp_path / "a.txt").read_text() == "kept"
    lines = capfd.readouterr().out.splitlines()
    assert [line.endswith("finished before") for line in lines] == [1, 0, 1]


def test_stages_are_chosen_by_name(stages, tmp_path, capfd):
    run_stages(stages, tmp_path, first="b", last="b")
    assert capfd.readouterr().out.startswith(" 2 of 3  write b")
    assert [path.name for path in tmp_path.glob("*.txt")] == ["b.txt"]
    with pytest.raises(ValueError, match="--until a comes before --from b"):
        run_stages(stages, tmp_path, first="b", last="a")
    with pytest.raises(ValueError, match="no stage 'x'; the stages are a, b"):
        run_stages(stages, tmp_path, first="x")


def test_failing_stage_is_named_with_its_reason_and_log(stages, tmp_path):
    stages[1] = fail(tmp_path / "b.txt")
    with pytest.raises(RuntimeError) as error:
        run_stages(stages, tmp_path)
    log = tmp_path / "logs" / "b.log"
    assert f"{error.value}".startswith("no space left\nStage b failed (exit")
    assert str(log) in f"{error.value}"
    assert log.read_text().startswith(f"$ {sys.executable} -c")
    assert "reason" in log.read_text()
    assert not stages[2].result.exists()


def test_stage_without_result_has_failed(tmp_path):
    stage = Stage("a", "a", "-c", ("print('done')",), tmp_path / "a.txt")
    with pytest.raises(RuntimeError, match="Stage a failed"):
        run_stages([stage], tmp_path)


def test_other_settings_are_refused(stages, tmp_path):
    run_stages(stages, tmp_path)
    stages[0] = write(tmp_path / "a.txt", "other")
    message = f"Stage a was begun with another --text.*{tmp_path / 'a.txt'}"
    with pytest.raises(ValueError, match=message):
        run_stages(stages, tmp_path)
    stages[0].result.unlink()  # as the message says
    run_stages(stages, tmp_path)
    assert stages[0].result.read_text() == "other"


@pytest.mark.parametrize("name", ["stages.json", "summary.json"])
@pytest.mark.parametrize("content", [b"", bytes(20), b"[]", b'{"a": ['])
def test_damaged_record_is_named(tmp_path, name, content):
    stage = write(tmp_path / "a" / "summary.json", '{"scores": {}}')
    stage.result.parent.mkdir()
    run_stages([stage], tmp_path)
    path = next(tmp_path.rglob(name))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged.*: remove it"):
        run_stages([stage], tmp_path)
    path.unlink()
    run_stages([stage], tmp_path)


def test_settings_come_back_from_the_command_line():
    given = {"f_max": None, "superset": {"x": None, "None": [True, "it's"]}}
    given |= {"scene_labels": ["a", "None"], "norm": "None", "lr": 0.1}
    words = iter(options(given))
    text = "\n".join(f"{name[2:]}: {next(words)}" for name in words)
    assert load_hyperpyyaml(text) == given


def test_empty_settings_of_a_system(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("tiny: {title: Tiny, hparams: null, settings: null}")
    assert read_systems(path) == {"tiny": {"title": "Tiny", "settings": {}}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no systems"),
        ("tiny:", "tiny: title is missing"),
        ("tiny: x", "tiny: must be names with values, got x"),
        ("[tiny]", r"must be names with values, got \['tiny'\]"),
        ("tiny: {title: a, hparam: b}", "tiny: no key 'hparam'; there are ti"),
        ("tiny: {title: a, settings: b}", "settings: must be names with val"),
        ("tiny: {title: [}", "line 1, column 16"),
    ],
)
def test_wrong_systems_are_named(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.yaml: (.|\n)*{message}"):
        read_systems(path)


def test_two_at_once_are_refused(stages, tmp_path):
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(RuntimeError, match="another run is at work there"):
            run_stages(stages, tmp_path)
    assert not stages[0].result.exists()
    run_stages(stages, tmp_path)


def test_launcher_starts_trainings_alone(stages, tmp_path):
    train = Stage("d", "train", "train.py", ("x",), tmp_path / "d.txt")
    with pytest.raises(RuntimeError):
        run_stages([*stages, train], tmp_path, ["echo", "launched"])
    log = (tmp_path / "logs" / "d.log").read_text().splitlines()
    assert log == ["$ echo launched train.py x", "launched train.py x"]
    assert stages[2].result.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stage_ends_with_the_run(tmp_path, number):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    sleeper = f"import time; f = open({str(fifo)!r}, 'w'); time.sleep(600)"
    code = (
        "from pathlib import Path\nfrom stages import *\n"
        # A suite that runs in the background ignores it, and so its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with one_line_at_the_end():\n"
        f"  run_stages([Stage('a', 'a', '-c', ({sleeper!r},), Path('a.txt'))],"
        f"Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=RECIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with open(fifo) as file:  # opens once the stage is at work
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
        assert file.read() == ""  # the stage has closed it
    assert not Path(RECIPE / "a.txt").exists()
