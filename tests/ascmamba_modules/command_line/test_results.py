"""Whatever is left of a killed run, it goes on to the same output."""

import csv
import json

import pandas as pd
import pytest
from hypothesis import (
    given,
    settings as hypothesis_settings,
    strategies as st,
)

from ascmamba_modules.command_line.options import CommandError, process_share
from ascmamba_modules.command_line.results import (
    check_format,
    write_results,
    write_share,
)

SETTINGS = {"version": "1", "model": "abc", "batch size": 3}
ROWS = [
    {
        "file": f"höflich {i}.wav",
        "scene_label": 'a, "b"',
        "problem": "",
        "Bus": i / 7,
    }
    for i in range(8)
]


def run(output, rows=ROWS, settings=SETTINGS, size=3):
    """Runs to the end; returns how many rows were there."""
    found = []

    def rows_from(done):
        found.append(done)
        return iter(rows[done:])

    write_results(output, settings, len(rows), size, rows_from)
    return found[0]


def killed(output, rows=3):
    """Runs until some rows are written."""

    def rows_from(done):
        yield from ROWS[:rows]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(output, SETTINGS, len(ROWS), 3, rows_from)


@hypothesis_settings(max_examples=25)
@given(data=st.data(), zeros=st.sampled_from([0, 50]))
def test_run_killed_anywhere_goes_on_to_the_same(tmp_path_factory, data, zeros):
    """Zeros are what a power loss may leave at the end of a file."""
    folder = tmp_path_factory.mktemp("run")
    output = str(folder / "out.csv")
    header = json.dumps(SETTINGS) + "\n"
    lines = [json.dumps(row) + "\n" for row in ROWS]
    journal = "".join([header, *lines]).encode()
    kept = journal[: data.draw(st.integers(0, len(journal)))]
    (folder / "out.csv.part").write_bytes(kept + bytes(zeros))
    done = run(output)
    whole = max(0, kept.count(b"\n") - 1)
    assert done == (whole if whole == len(ROWS) else whole // 3 * 3)
    table = pd.read_csv(output)
    expected = pd.DataFrame(ROWS)
    table["problem"] = table["problem"].fillna("")
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
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
    nameless = {"file": "\udcff.wav", "scene_label": ""}
    nameless.update(problem="bad", Bus=None)
    output = tmp_path / f"out.{suffix}"
    run(str(output), [*ROWS, nameless])
    *rows, last = READERS[suffix](output)
    assert rows == ROWS
    escaped = suffix == "parquet"
    assert last["file"] == ("\\udcff.wav" if escaped else "\udcff.wav")
    assert last["scene_label"] == "" and last["problem"] == "bad"
    assert pd.isna(last["Bus"])


def test_rest_of_another_run_is_refused(tmp_path):
    output, part = str(tmp_path / "out.csv"), tmp_path / "out.csv.part"
    killed(output)
    before = part.read_bytes()
    with pytest.raises(CommandError, match="another model: finish"):
        run(output, settings={**SETTINGS, "model": "xyz"})
    assert part.read_bytes() == before
    part.write_text("my notes\n")
    with pytest.raises(CommandError, match="another version"):
        run(output)
    assert part.read_text() == "my notes\n"


def test_run_without_rows_leaves_nothing(tmp_path):
    killed(str(tmp_path / "out.csv"), rows=0)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_are_refused(tmp_path):
    output = str(tmp_path / "out.csv")

    def rows_from(done):
        with pytest.raises(CommandError, match="another run is writing"):
            run(output)
        return iter(ROWS)

    assert write_results(output, SETTINGS, len(ROWS), 3, rows_from) == 0


def test_problems_are_counted(tmp_path):
    rows = [*ROWS, {**ROWS[0], "problem": "empty file"}]
    output = str(tmp_path / "out.csv")
    assert write_results(output, SETTINGS, 9, 3, lambda _: iter(rows)) == 1


def test_parquet_without_pyarrow_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CommandError, match="pip install pyarrow"):
        check_format("out.parquet")
    check_format("out.csv")


def test_processes_share_the_rows(tmp_path, monkeypatch):
    """The first one, which is last here, puts them together."""
    whole, shared = tmp_path / "whole.csv", tmp_path / "shared.csv"
    rows = [
        {**row, "problem": "torn" if i == 4 else ""}
        for i, row in enumerate(ROWS)
    ]
    write_results(str(whole), SETTINGS, 8, 3, lambda done: iter(rows[done:]))
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    assert process_share() == (0, 1)  # of something else, not of torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    asked = []
    for rank in (2, 1, 1, 0):  # the second was started again
        monkeypatch.setenv("RANK", str(rank))
        assert process_share() == (rank, 3)

        def rows_from(done, own=rows[rank::3]):
            asked.extend(own[done:])
            return iter(own[done:])

        failed = write_share(str(shared), SETTINGS, 8, 2, rows_from)
        assert failed == (1 if rank == 0 else 0)
    assert len(asked) == 8
    assert shared.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("shared.csv", "whole.csv")
    ]
