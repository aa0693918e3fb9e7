"""Files that are written whole or not at all."""

import pytest

from ascmamba_modules.utils.files import replacing


def test_failure_leaves_the_older_file(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_name_keeps_its_suffix(tmp_path):
    with replacing(tmp_path / "plot.png") as temporary:
        assert temporary.suffix == ".png"  # savefig chooses by it
        assert temporary.parent == tmp_path  # else it could not be renamed
        temporary.touch()
