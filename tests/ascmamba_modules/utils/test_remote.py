"""Recordings given as URLs, on a server in a thread and in memory."""

import functools
import io
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pandas as pd
import pytest
import soundfile
from speechbrain.dataio.preprocess import AudioNormalizer
from torch.utils.data import DataLoader

from ascmamba_modules.command_line import main
from ascmamba_modules.command_line.recordings import (
    labelled_files,
    list_left_out,
)
from ascmamba_modules.data.audio_files import inspect_audio, load_audio
from ascmamba_modules.data.feature_cache import FeatureCache
from ascmamba_modules.data.manifest import (
    ManifestError,
    make_dataset,
    read_manifest,
    read_training_rows,
)
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.utils.files import file_stamp
from ascmamba_modules.utils.remote import fetched_once, find_urls, is_url, local

SECRET = "password123"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, counts what is fetched, and refuses or cuts some."""

    fetched = []

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.fetched.append(name)
        if name == "moved.wav":
            self.send_response(302)
            self.send_header("Location", f"/refused.wav?key={SECRET}")
            self.end_headers()
        elif name.startswith("refused.wav"):
            self.send_error(403)
        elif name == "cut.wav":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"RIFF")
        else:
            super().do_GET()


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which is empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    (folder / "day 1").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.wav", "b.flac", "day 1/c.wav", ".hidden.wav"):
        samples = rng.uniform(-0.3, 0.3, 4000)
        soundfile.write(folder / name, samples, 8000)
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture
def server(recordings):
    """The URL of a local server; its handler counts."""
    pytest.importorskip("aiohttp")
    Handler.fetched.clear()
    handler = functools.partial(Handler, directory=recordings)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.fixture
def memory(recordings):
    """The URL of a store in memory."""
    store = fsspec.filesystem("memory")
    store.put(f"{recordings}/", "/bucket/", recursive=True)
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


@pytest.fixture(params=["memory", "server", "file"])
def root(request, recordings):
    """Each in turn; all hold the same."""
    if request.param == "file":
        return f"file://{recordings}"
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    "path", ["a.wav", "a:b.wav", "C:\\x.wav", "C:/x.wav", "C://x.wav", "://a"]
)
def test_paths_are_paths(path):
    assert not is_url(path)
    with local(path) as file:
        assert file is path


def test_audio_is_that_of_the_file(root, recordings):
    for name in ("a.wav", "b.flac"):
        path, normalizer = recordings / name, AudioNormalizer(8000)
        assert inspect_audio(f"{root}/{name}") == inspect_audio(path)
        found = load_audio(f"{root}/{name}", normalizer)
        assert found.equal(load_audio(path, normalizer))


def test_suffix_stays_without_the_query(server):
    with local(f"{server}/a.wav?signature=1.{'x' * 300}") as file:
        assert file.endswith(".wav")


def test_missing_file_is_reported_as_one_here(root):
    url = f"{root}/none.wav"
    assert inspect_audio(url).problem == inspect_audio("none.wav").problem
    for use in (file_stamp, lambda url: load_audio(url, None)):
        with pytest.raises(FileNotFoundError, match="not found.*none.wav"):
            use(url)


@pytest.mark.parametrize(
    "name, reason", [("moved.wav", "403"), ("cut.wav", "Not enough data")]
)
def test_what_cannot_be_fetched_is_one_line(server, name, reason):
    problem = inspect_audio(f"{server}/{name}").problem
    assert problem.startswith("cannot be fetched (") and reason in problem
    assert "\n" not in problem and SECRET not in problem


def test_unreachable_server_and_unknown_store():
    pytest.importorskip("aiohttp")
    # No one listens on port 1; a listing says so too, and not "no files".
    assert "connect" in inspect_audio("http://127.0.0.1:1/a.wav").problem
    for name in ("", "*.wav"):
        with pytest.raises(OSError, match="connect"):
            find_urls(f"http://127.0.0.1:1/{name}")
    assert "nostore" in inspect_audio("nostore://a.wav").problem


def test_folder_is_told_from_a_file(memory):
    assert "ends in /" in inspect_audio(f"{memory}/day 1").problem


def test_missing_package_is_named(memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    problem = inspect_audio(f"{memory}/a.wav").problem
    assert "fsspec" in problem and "pip install 'ascmamba[remote]'" in problem


def test_files_are_listed(root):
    space = "%20" if root.startswith("http") else " "
    in_folder = f"{root}/day{space}1/c.wav"
    assert set(find_urls(f"{root}/")) >= {f"{root}/b.flac", in_folder}
    assert find_urls(f"{root}/*.flac") == [f"{root}/b.flac"]
    assert find_urls(f"{root}/d*/*") == [in_folder]
    for missing in ("none/", "none/*.wav"):
        with pytest.raises(FileNotFoundError, match="not found"):
            find_urls(f"{root}/{missing}")


def test_user_and_host_stay_in_listed_urls(monkeypatch):
    class Store:
        def glob(self, name):
            return ["/day/a.wav"]

    found = Store(), "/day/*.wav"
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: found)
    assert find_urls("ftp://me:pw@host/day/*.wav") == [
        "ftp://me:pw@host/day/a.wav"
    ]


def test_files_are_fetched_once(server, temporary):
    url = f"{server}/a.wav"
    with fetched_once():
        for _ in range(3):
            assert inspect_audio(url).problem == ""
        assert len(list(temporary.iterdir())) == 1
    assert Handler.fetched == ["a.wav"]
    inspect_audio(url)  # it may have changed since
    assert Handler.fetched == ["a.wav", "a.wav"]


def test_threads_have_files_of_their_own(server):
    # Not in memory, where fsspec's readers of a file move each other.
    urls = [f"{server}/a.wav", f"{server}/b.flac"] * 20
    with ThreadPoolExecutor(8) as pool, fetched_once():
        assert not any(h.problem for h in pool.map(inspect_audio, urls))


def printed(arguments, capsys, code):
    assert main(arguments) == code
    shown = capsys.readouterr()
    return pd.read_csv(io.StringIO(shown.out)), shown.err


def test_classify(server, recordings, model_folder, capsys):
    urls = [f"{server}/{name}" for name in ("a.wav", "none.wav", "b.flac")]
    arguments = ["classify", "--model", str(model_folder), "--skip-errors"]
    table, errors = printed([*arguments, *urls], capsys, 1)
    assert Handler.fetched.count("a.wav") == 1
    assert f"ascmamba: {urls[1]}: file not found\n" in errors
    assert table["file"].tolist() == urls
    classifier = SceneClassifier.from_hparams(model_folder)
    for row in table.drop(index=1).itertuples():
        path = recordings / row.file.rpartition("/")[2]
        expected = classifier.classify_file(path)
        assert row.scene_label == expected[3][0]
        assert row.probability == pytest.approx(expected[1].exp().item(), 1e-4)
        assert classifier.classify_file(row.file)[1] == expected[1]
    with pytest.raises(ValueError, match="none.wav: file not found"):
        classifier.classify_file(urls[1])


def test_classify_folder_and_pattern(memory, model_folder, capsys):
    command = ["classify", "--model", str(model_folder)]
    table, errors = printed([*command, f"{memory}/"], capsys, 0)
    names = ["a.wav", "b.flac", "day 1/c.wav"]
    assert table["file"].tolist() == [f"{memory}/{name}" for name in names]
    left_out = {"hidden": [f"{memory}/.hidden.wav"]}
    left_out["of another kind"] = [f"{memory}/notes.txt"]
    assert list_left_out(left_out, "ascmamba: ") in errors
    table, _ = printed([*command, f"{memory}/*.flac"], capsys, 0)
    assert table["file"].tolist() == [f"{memory}/b.flac"]
    for wrong, reason in (("none/", "not found"), ("*.txt", "no recordings")):
        assert main([*command, f"{memory}/{wrong}"]) == 2
        shown = capsys.readouterr().err
        assert f"error: {memory}/{wrong}: " in shown and reason in shown


def test_timeline(server, recordings, model_folder, tmp_path, capsys):
    command = ["timeline", "--model", str(model_folder), "--window", "0.2"]
    here, _ = printed([*command, str(recordings / "a.wav")], capsys, 0)
    command += ["--skip-errors", f"{server}/a.wav"]
    there, _ = printed(command, capsys, 0)
    assert Handler.fetched == ["a.wav"]
    assert set(there.pop("file")) == {f"{server}/a.wav"}
    pd.testing.assert_frame_equal(here.drop(columns="file"), there)
    output = tmp_path / "raven.txt"
    assert main([*command, "--format", "raven", "--output", str(output)]) == 0
    table = pd.read_csv(output, sep="\t")
    assert set(table["Begin Path"]) == {f"{server}/a.wav"}


def test_manifest(root, recordings, tmp_path):
    path = tmp_path / "clips.csv"
    lines = ["ID,wav,scene_label,split", f"1,{root}/a.wav,Bus,train"]
    lines.append("2,recordings/b.flac,Bus,valid")
    path.write_text("\n".join(lines))
    wavs = [f"{root}/a.wav", str(recordings / "b.flac")]
    assert read_manifest(path)["wav"].tolist() == wavs
    table = read_training_rows(path, ["Bus"])["train"]
    items = make_dataset(table, AudioNormalizer(8000))
    expected = load_audio(recordings / "a.wav", AudioNormalizer(8000))
    # Workers are forks of a process that has used the store.
    for workers in (0, 1):
        loader = DataLoader(items, batch_size=None, num_workers=workers)
        assert [item["sig"].equal(expected) for item in loader] == [True]
    path.write_text("\n".join([*lines, f"3,{root}/none.wav,Bus,train"]))
    with pytest.raises(ManifestError, match="line 4 .*none.wav: file not fo"):
        read_training_rows(path, ["Bus"])


def test_features_are_computed_anew_when_a_file_changes(memory, tmp_path):
    cache = FeatureCache(
        tmp_path / "cache", LogMel(sample_rate=8000), AudioNormalizer(8000)
    )
    url = f"{memory}/a.wav"
    cache.build([url])
    before, stamp = cache.load(url), file_stamp(url)
    assert file_stamp(url) == stamp
    fsspec.filesystem("memory").copy("/bucket/day 1/c.wav", "/bucket/a.wav")
    cache.build([url])
    assert not cache.load(url).equal(before)


def test_labels_of_a_review_keep_urls(memory, tmp_path):
    path = tmp_path / "labels.csv"
    url = f"{memory}/a.wav"
    path.write_text(f"file,scene_label,classes\n{url},Bus,Bus; Bar\n")
    row = labelled_files(path).iloc[0]
    assert row["wav"] == url and row["problem"] == "" and row["duration"] == 0.5
