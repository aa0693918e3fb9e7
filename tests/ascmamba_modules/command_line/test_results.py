"""The journal: whatever is left of it, the run goes on to the same output."""

import csv
import json

import pandas as pd
import pytest
from hypothesis import (
    given,
    settings as hypothesis_settings,
    strategies as st,
)

from ascmamba_modules.command_line.options import CommandError
from ascmamba_modules.command_line.results import Journal, check_format

SETTINGS = {"version": "1", "model": "abc", "batch size": 3}
ROWS = [
    {"file": f"höflich {i}.wav", "scene_label": 'a, "b"', "Bus": i / 7}
    for i in range(8)
]


def run(output, rows=ROWS, settings=SETTINGS, size=3):
    """Runs to the end; returns how many rows were there."""
    with Journal(output, settings, len(rows), size) as journal:
        for start in range(journal.done, len(rows), size):
            journal.append(rows[start : start + size])
        journal.finish()
    return journal.done


@hypothesis_settings(max_examples=40)
@given(data=st.data())
def test_run_killed_anywhere_goes_on_to_the_same(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    output = str(folder / "out.csv")
    header = json.dumps(SETTINGS) + "\n"
    lines = [json.dumps(row) + "\n" for row in ROWS]
    journal = "".join([header, *lines]).encode()
    kept = journal[: data.draw(st.integers(0, len(journal)))]
    (folder / "out.csv.part").write_bytes(kept)
    done = run(output)
    whole = max(0, kept.count(b"\n") - 1)
    assert done == (whole if whole == len(ROWS) else whole // 3 * 3)
    table = pd.read_csv(output)
    pd.testing.assert_frame_equal(table, pd.DataFrame(ROWS))
    assert [file.name for file in folder.iterdir()] == ["out.csv"]


def read_csv(path):
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "Bus": float(row["Bus"] or "nan")} for row in rows]


READERS = {
    "csv": read_csv,
    "jsonl": lambda path: [
        json.loads(line) for line in open(path, encoding="utf-8")
    ],
    "parquet": lambda path: pd.read_parquet(path).to_dict("records"),
}


@pytest.mark.parametrize("suffix", READERS)
def test_formats_hold_the_same(tmp_path, suffix):
    # A byte that is no UTF-8, and a file that has no posteriors.
    nameless = {"file": "\udcff.wav", "scene_label": "", "Bus": None}
    output = tmp_path / f"out.{suffix}"
    run(str(output), [*ROWS, nameless])
    *rows, last = READERS[suffix](output)
    assert rows == ROWS
    escaped = suffix == "parquet"
    assert last["file"] == ("\\udcff.wav" if escaped else "\udcff.wav")
    assert last["scene_label"] == "" and pd.isna(last["Bus"])


def test_journal_of_another_run_is_refused(tmp_path):
    output = str(tmp_path / "out.csv")
    with Journal(output, SETTINGS, 8, 3) as journal:
        journal.append(ROWS[:3])
    before = (tmp_path / "out.csv.part").read_bytes()
    with pytest.raises(CommandError, match="another model: finish"):
        run(output, settings={**SETTINGS, "model": "xyz"})
    assert (tmp_path / "out.csv.part").read_bytes() == before
    (tmp_path / "out.csv.part").write_text("my notes\n")
    with pytest.raises(CommandError, match="another form"):
        run(output)
    assert (tmp_path / "out.csv.part").read_text() == "my notes\n"


def test_run_without_rows_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no model"):
        with Journal(str(tmp_path / "out.csv"), SETTINGS, 8, 3):
            raise ValueError("no model")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_are_refused(tmp_path):
    output = str(tmp_path / "out.csv")
    with Journal(output, SETTINGS, 8, 3):
        with pytest.raises(CommandError, match="another run is writing"):
            run(output)
    assert run(output) == 0


def test_parquet_without_pyarrow_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CommandError, match="pip install pyarrow"):
        check_format("out.parquet")
    check_format("out.csv")
