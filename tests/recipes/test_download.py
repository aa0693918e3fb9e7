"""Fetching, against a server in this process that speaks as Zenodo does."""

import hashlib
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
from download import fetch_file, fetch_record


class Handler(SimpleHTTPRequestHandler):
    """Serves files, and remembers which were asked for."""

    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def zenodo(tmp_path, monkeypatch):
    """A record of two archives, and its address."""
    root = tmp_path / "server"
    root.mkdir()
    for name in ("a", "b"):
        with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
            archive.writestr(f"corpus/{name}.wav", name * 1000)
    Handler.asked = []
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=root)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"

    # What Zenodo answers about the record, and pooch's own code to read it.
    repository = pooch.downloaders.ZenodoRepository("doi", address)
    repository._api_response = {
        "files": [
            {
                "key": path.name,
                "links": {"self": f"{address}/{path.name}"},
                "checksum": "md5:" + hashlib.md5(path.read_bytes()).hexdigest(),
            }
            for path in root.glob("*.zip")
        ]
    }
    for module in (pooch.core, pooch.downloaders):
        monkeypatch.setattr(
            module, "doi_to_repository", lambda doi, **_: repository
        )
    yield root, address
    server.shutdown()
    server.server_close()


def test_archives_are_fetched_checked_and_unpacked(zenodo, tmp_path):
    folder = tmp_path / "corpora"
    fetch_record(1, ["a.zip", "b.zip"], folder)
    assert (folder / "corpus" / "b.wav").read_text() == "b" * 1000
    assert sorted(Handler.asked) == ["/a.zip", "/b.zip"]
    fetch_record(1, ["a.zip", "b.zip"], folder)  # all there
    assert len(Handler.asked) == 2


def test_interrupted_download_goes_on_with_the_file_it_stopped_at(
    zenodo, tmp_path
):
    root, _ = zenodo
    folder = tmp_path / "corpora"
    whole = (root / "b.zip").read_bytes()
    (root / "b.zip").write_bytes(whole[:50])
    with pytest.raises(OSError, match="(?s)Zenodo record 1.*zenodo.org/rec"):
        fetch_record(1, ["a.zip", "b.zip"], folder)
    assert not (folder / "b.zip").exists()  # its checksum was wrong
    (root / "b.zip").write_bytes(whole)
    fetch_record(1, ["a.zip", "b.zip"], folder)
    assert Handler.asked == ["/a.zip", "/b.zip", "/b.zip"]
    assert (folder / "corpus" / "b.wav").exists()


def test_member_cut_by_a_kill_is_unpacked_again(zenodo, tmp_path, monkeypatch):
    folder = tmp_path / "corpora"
    fetch_record(1, ["a.zip"], folder)
    (folder / "corpus" / "a.wav").write_text("aa")  # as pooch leaves it
    fetch_record(1, ["a.zip"], folder)
    assert (folder / "corpus" / "a.wav").read_text() == "a" * 1000

    def killed(archive, member, folder):
        (Path(folder) / "corpus").mkdir(parents=True)
        (Path(folder) / "corpus" / "b.wav").write_text("bb")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zipfile.ZipFile, "extract", killed)
        fetch_record(1, ["b.zip"], folder)
    assert not (folder / "corpus" / "b.wav").exists()
    fetch_record(1, ["b.zip"], folder)
    files = sorted(path.name for path in folder.rglob("*"))
    assert files == ["a.wav", "a.zip", "b.wav", "b.zip", "corpus"]


def test_file_that_the_record_does_not_hold(zenodo, tmp_path):
    with pytest.raises(OSError, match="does not hold c.zip"):
        fetch_record(1, ["a.zip", "c.zip"], tmp_path)
    assert not Handler.asked


def test_archives_can_stay_packed(zenodo, tmp_path):
    fetch_record(1, ["a.zip"], tmp_path / "corpora", unpack=False)
    assert [f.name for f in (tmp_path / "corpora").iterdir()] == ["a.zip"]


def test_single_file(zenodo, tmp_path):
    root, address = zenodo
    (root / "meta.csv").write_text("filename\n")
    right = hashlib.sha256(b"filename\n").hexdigest()
    fetch_file(f"{address}/meta.csv", right, tmp_path / "x")
    assert (tmp_path / "x" / "meta.csv").read_text() == "filename\n"
    for name, checksum in (("meta.csv", "0" * 64), ("none.csv", right)):
        with pytest.raises(OSError, match="Fetch it by hand"):
            fetch_file(f"{address}/{name}", checksum, tmp_path / "y")
