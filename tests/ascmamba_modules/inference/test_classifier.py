"""SceneClassifier on a model folder, and what it refuses."""

import datetime
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from small_models import write_folder

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.inference import SceneClassifier

RATE = 44100


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model folder, and the stage with random weights that it is of."""
    torch.manual_seed(0)
    return write_folder(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def stage(written):
    return written[1]


@pytest.fixture(scope="module")
def source(written):
    return written[0]


@pytest.fixture(scope="module")
def classifier(source):
    return SceneClassifier.from_hparams(
        source=source, run_opts={"device": "cpu"}
    )


def answer(stage, wav, location=None, record_time=None):
    """What the stage's own modules say of one waveform."""
    tokenizer = stage["tokenizer"]
    with torch.no_grad():
        features = stage["normalize"](stage["features"](wav.unsqueeze(0)))
        context = stage["context_encoder"](
            tokenizer.encode_location(location).unsqueeze(0),
            tokenizer.encode_time(record_time).unsqueeze(0),
        )
        return torch.log_softmax(stage["model"](features, context), -1)


METADATA = [
    (None, None),
    ("Xi'an", None),
    (None, "2023-04-21 18:30:00"),
    ("Xi'an", datetime.datetime(2023, 4, 21, 18, 30)),
]


@pytest.mark.parametrize("location, record_time", METADATA)
def test_file_is_classified_as_by_the_modules(
    stage, classifier, tmp_path, location, record_time
):
    wav = 0.1 * torch.randn(RATE)
    path = tmp_path / "clip.wav"
    soundfile.write(path, wav.numpy(), RATE, subtype="FLOAT")
    out_prob, score, index, text_lab = classifier.classify_file(
        path, location, record_time
    )
    expected = answer(stage, wav, location, record_time)
    torch.testing.assert_close(out_prob, expected, atol=1e-5, rtol=0)
    assert score.item() == out_prob.max().item()
    assert index.item() == out_prob.argmax().item()
    assert text_lab == [["Bus", "Bar", "Park"][index.item()]]


def test_place_and_time_change_the_answer(classifier):
    wav = 0.1 * torch.randn(RATE)
    answers = [classifier.classify_batch(wav, None, *m)[0] for m in METADATA]
    for i in range(len(answers)):
        for j in range(i):
            assert not torch.allclose(answers[i], answers[j], atol=1e-4)


def test_batch_of_different_lengths_equals_single_clips(stage, classifier):
    wavs = torch.zeros(4, RATE)
    lengths = torch.tensor([1.0, 0.5, 0.2503, 0.03])
    for wav, length in zip(wavs, lengths):
        n = int(round(length.item() * RATE))
        wav[:n] = 0.1 * torch.randn(n)
    places, times = zip(*METADATA)
    out_prob, *_ = classifier.classify_batch(
        wavs, lengths, list(places), list(times)
    )
    for i, length in enumerate(lengths):
        wav = wavs[i, : int(round(length.item() * RATE))]
        expected = answer(stage, wav, places[i], times[i])
        torch.testing.assert_close(out_prob[i], expected[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channel_count(classifier, tmp_path, rate, channels):
    time_axis = np.arange(2 * rate) / rate
    tone = 0.2 * np.sin(2 * np.pi * 440 * time_axis)
    soundfile.write(
        tmp_path / "own.wav", np.tile(tone[:, None], channels), rate
    )
    out_prob, *_ = classifier.classify_file(tmp_path / "own.wav")
    time_axis = np.arange(2 * RATE) / RATE
    tone = torch.tensor(0.2 * np.sin(2 * np.pi * 440 * time_axis))
    reference, *_ = classifier.classify_batch(tone)
    # Resampling leaves ripples far down; the answer hardly moves.
    torch.testing.assert_close(
        out_prob.exp(), reference.exp(), atol=0.05, rtol=0
    )


def test_real_recordings(classifier, shared_data):
    for path in sorted((shared_data / "ambience").glob("*.*[!d]")):
        out_prob, *_ = classifier.classify_file(path, "Berlin", None)
        assert torch.isfinite(out_prob).all()
        assert out_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_model_folder_calls_nothing_and_names_no_paths(source):
    text = (source / "hyperparams.yaml").read_text()
    assert "!apply" not in text and "n_classes: 3" in text
    assert str(source.parent) not in text


@pytest.mark.parametrize("name", ["no/such/folder", "./none", "none", "/none"])
def test_mistyped_folder_is_refused_at_once(name, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("tried to fetch")

    monkeypatch.setattr("speechbrain.utils.fetching.fetch", no_network)
    with pytest.raises(FileNotFoundError, match="No such folder"):
        SceneClassifier.from_hparams(source=name)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No finished model in"):
        SceneClassifier.from_hparams(source=tmp_path)


def test_output_folder_of_a_stage_stands_for_its_model(source, classifier):
    found = SceneClassifier.from_hparams(source=source.parent)
    wav = torch.randn(RATE)
    assert torch.equal(
        found.classify_batch(wav)[0], classifier.classify_batch(wav)[0]
    )


def test_bad_input_is_named(classifier, tmp_path):
    (tmp_path / "text.wav").write_text("not sound")
    with pytest.raises(ValueError, match="text.wav: not an audio file"):
        classifier.classify_file(tmp_path / "text.wav")
    with pytest.raises(ValueError, match="none.wav: file not found"):
        classifier.classify_file(tmp_path / "none.wav")
    with pytest.raises(ValueError, match="'soon' is not a time"):
        classifier.classify_batch(torch.randn(RATE), record_time="soon")
    with pytest.raises(ValueError, match="3 entries for 2 clips"):
        classifier.classify_batch(torch.randn(2, RATE), location=["a"] * 3)
    with pytest.raises(ValueError, match="batch, samples"):
        classifier.classify_batch(torch.randn(1, 2, RATE))


@pytest.mark.parametrize(
    "lengths", [torch.tensor([1.0]), [44100, 22050], [1.0, 0.0], [[1.0, 1.0]]]
)
def test_lengths_that_are_not_relative_are_refused(classifier, lengths):
    with pytest.raises(ValueError, match="2 relative lengths"):
        classifier.classify_batch(torch.randn(2, RATE), lengths)


def test_mistyped_name_in_a_folder_that_exists_is_not_fetched(
    tmp_path, monkeypatch
):
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="results/modle"):
        SceneClassifier.from_hparams(source="results/modle")


def write_noise(path, seconds=0.3, rate=RATE, seed=0, **options):
    rng = np.random.default_rng(seed)
    samples = rng.uniform(-0.3, 0.3, int(seconds * rate))
    soundfile.write(path, samples, rate, **options)
    return path


TIME = np.arange(RATE // 2) / RATE
TONE = 0.4 * np.sin(2 * np.pi * 440 * TIME)
ODD_SOUNDS = {
    "silence": (np.zeros(RATE), RATE, "PCM_16"),
    "DC": (np.full(RATE, 0.5), RATE, "PCM_16"),
    "clipping": (np.sign(TONE), RATE, "PCM_16"),
    "beyond full scale": (50 * TONE, RATE, "FLOAT"),
    "telephone": (TONE[::5], 8000, "ULAW"),
    "192 kHz": (TONE, 192000, "PCM_24"),
    "32 bit": (TONE, RATE, "PCM_32"),
    "double": (TONE, RATE, "DOUBLE"),
    "8 channels": (np.tile(TONE[:, None], 8), RATE, "PCM_16"),
    "one sample": (TONE[5:6], RATE, "PCM_16"),
    "less than a feature": (TONE[:500], RATE, "PCM_16"),
}


@pytest.mark.parametrize("name", ODD_SOUNDS)
def test_odd_sounds_have_an_answer(classifier, tmp_path, name):
    samples, rate, subtype = ODD_SOUNDS[name]
    soundfile.write(tmp_path / "odd.wav", samples, rate, subtype)
    out_prob, *_ = classifier.classify_file(tmp_path / "odd.wav")
    assert out_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    timeline = classifier.classify_long(tmp_path / "odd.wav")
    posteriors = timeline.table[timeline.classes].to_numpy()
    np.testing.assert_allclose(posteriors, out_prob.exp(), atol=1e-5)


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_the_answer_is_that_of_the_samples(
    classifier, tmp_path, subtype, channels
):
    samples = np.tile(TONE[:, None], channels)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype)
    out_prob, *_ = classifier.classify_file(tmp_path / "a.wav")
    expected, *_ = classifier.classify_batch(torch.tensor(TONE))
    torch.testing.assert_close(out_prob, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8", "int64"])
def test_integers_are_refused(classifier, kind):
    samples = (3000 * np.abs(TONE)).astype(kind)
    for classify in (classifier.classify_batch, classifier.embed_batch):
        for wavs in (samples, torch.from_numpy(samples)):
            with pytest.raises(ValueError, match=f"{kind}; divide"):
                classify(wavs)
        with pytest.raises(ValueError, match="Samples reach .*divide"):
            classify(3e4 * TONE)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_samples_that_are_no_sound_are_refused(classifier, tmp_path, value):
    wavs = torch.randn(3, 2000)
    wavs[1, 7] = value
    with pytest.raises(ValueError, match=r"clips \[1\]"):
        classifier.classify_batch(wavs)
    soundfile.write(tmp_path / "a.wav", wavs[1].numpy(), RATE, "FLOAT")
    for classify in (classifier.classify_file, classifier.classify_long):
        with pytest.raises(ValueError, match="a.wav: .*NaN"):
            classify(tmp_path / "a.wav")
    write_noise(tmp_path / "b.wav")
    bad, good = classifier.classify_files(
        [tmp_path / "a.wav", tmp_path / "b.wav"], skip_errors=True
    )
    assert bad.problem and bad.out_prob is None
    assert not good.problem and good.out_prob.isfinite().all()


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_any_path(classifier, tmp_path, suffix):
    folder = tmp_path
    while len(str(folder).encode()) <= 1500:
        folder = folder / ("höflich 北京" * 8)
    folder.mkdir(parents=True)
    path = folder / f"\udcff.{suffix}"  # a byte that is no UTF-8
    samples = write_noise(tmp_path / f"a.{suffix}")
    path.write_bytes(samples.read_bytes())
    expected, *_ = classifier.classify_file(samples)
    assert torch.equal(classifier.classify_file(path)[0], expected)
    timeline = classifier.classify_long(path)
    np.testing.assert_allclose(
        timeline.table[timeline.classes].to_numpy(), expected.exp(), atol=1e-5
    )


def test_rate_that_cannot_be_resampled_is_refused(classifier, tmp_path):
    path = write_noise(tmp_path / "a.wav", rate=250007)
    for classify in (
        classifier.classify_file,
        classifier.classify_long,
        lambda path: classifier.classify_files([path]),
    ):
        with pytest.raises(ValueError, match="a.wav: .*250007 Hz.*convert"):
            classify(path)


def test_many_files_are_classified_as_each_alone(classifier, tmp_path):
    paths = [
        write_noise(tmp_path / f"{i}.flac", 0.1 + 0.13 * (i * 7 % 11), seed=i)
        for i in range(23)
    ]
    places = ["Xi'an", None, "Berlin", ""] * 6
    times = [datetime.datetime(2023, 4, 1 + i, i) for i in range(23)]
    results = list(
        classifier.classify_files(iter(paths), places[:23], times, batch_size=4)
    )
    assert [result.path for result in results] == [str(path) for path in paths]
    for result, place, time in zip(results, places, times):
        alone = classifier.classify_file(result.path, place, time)
        torch.testing.assert_close(
            result.out_prob, alone[0][0], atol=1e-4, rtol=0
        )
        assert result.score == result.out_prob.max().item()
        assert result.index == result.out_prob.argmax().item()
        assert [result.text_lab] == alone[3]
        assert result.problem == ""


def test_long_and_short_files_in_one_batch(classifier, tmp_path):
    # 61 s make up more than a batch of three ten-second clips.
    paths = [
        write_noise(tmp_path / f"{i}.wav", seconds, 8000)
        for i, seconds in enumerate((1, 61, 2, 3))
    ]
    for result in classifier.classify_files(paths, batch_size=3):
        torch.testing.assert_close(
            result.out_prob,
            classifier.classify_file(result.path)[0][0],
            atol=1e-4,
            rtol=0,
        )


def test_bad_files_are_reported_and_skipped(classifier, tmp_path):
    write_noise(tmp_path / "a.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("not sound")
    (tmp_path / "folder.wav").mkdir()
    write_noise(tmp_path / "long.wav", 301, 1000)
    write_noise(tmp_path / "b.wav")
    names = ("empty", "a", "gone", "text", "folder", "long", "b")
    paths = [tmp_path / f"{name}.wav" for name in names]
    results = list(
        classifier.classify_files(
            [*paths, paths[1]],
            record_time=["2023-04-21"] * 7 + ["18:30"],
            batch_size=2,
            skip_errors=True,
        )
    )
    problems = [result.problem for result in results]
    assert "0 bytes" in problems[0]
    assert "not found" in problems[2]
    assert "not an audio file" in problems[3]
    assert "not a file" in problems[4]
    assert "301 s" in problems[5] and "classify_long" in problems[5]
    assert "'18:30' is not a time" in problems[7]
    assert problems[1] == problems[6] == ""
    # a.wav and b.wav hold the same.
    torch.testing.assert_close(results[1].out_prob, results[6].out_prob)


def test_bad_files_are_found_before_the_work(classifier, tmp_path, monkeypatch):
    good = write_noise(tmp_path / "a.wav")
    monkeypatch.setattr(classifier, "_inputs", None)
    with pytest.raises(ValueError, match="2 of 3 files") as caught:
        classifier.classify_files([good, "none.wav", tmp_path])
    assert "none.wav: file not found" in str(caught.value)
    with pytest.raises(ValueError, match="a.wav: 'soon'"):
        classifier.classify_files([good], record_time="soon")
    with pytest.raises(ValueError, match="1 entries for 2 clips"):
        classifier.classify_files([good, good], location=["Berlin"])
    with pytest.raises(ValueError, match="batch_size"):
        classifier.classify_files([good], batch_size=0)


def test_no_files_are_no_error(classifier):
    assert list(classifier.classify_files([])) == []


@pytest.mark.parametrize("rate", [8000, 48000])
def test_long_recording_is_classified_as_its_windows(
    classifier, tmp_path, rate
):
    path = write_noise(tmp_path / "a.wav", 3.3, rate)
    timeline = classifier.classify_long(
        path, 1.0, 0.4, "Xi'an", "2023-04-21 23:59:58", batch_size=3
    )
    waveform = load_audio(path, classifier.audio_normalizer)
    starts = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, len(waveform) / RATE - 1]
    table = timeline.table
    assert table["start"].tolist() == pytest.approx(starts)
    assert (table["end"] - table["start"]).tolist() == pytest.approx([1.0] * 7)
    # From the sixth window on it is Saturday, and another hour.
    times = ["2023-04-21 23:00:00"] * 5 + ["2023-04-22 00:00:00"] * 2
    for start, time, row in zip(starts, times, table.itertuples()):
        first = round(start * RATE)
        expected, _, _, label = classifier.classify_batch(
            waveform[first : first + RATE], None, "Xi'an", time
        )
        np.testing.assert_allclose(row[4:], expected[0].exp(), atol=1e-5)
        assert [row.scene_label] == label
    assert timeline.classes == ["Bus", "Bar", "Park"]


def test_long_recording_of_real_sounds(classifier, shared_data, tmp_path):
    files = sorted((shared_data / "esc10" / "audio").glob("*.ogg"))[:12]
    clips = [load_audio(file, classifier.audio_normalizer) for file in files]
    clips = [torch.nn.functional.pad(c, (0, 5 * RATE - len(c))) for c in clips]
    long = tmp_path / "long.ogg"
    with soundfile.SoundFile(long, "w", RATE, 1, "VORBIS") as file:
        for clip in clips:
            file.write(clip.numpy())
    timeline = classifier.classify_long(long, 5.0, 5.0)
    whole = load_audio(long, classifier.audio_normalizer)
    expected, *_ = classifier.classify_batch(whole.view(12, -1))
    np.testing.assert_allclose(
        timeline.table[timeline.classes], expected.exp(), atol=1e-5
    )
    assert timeline.segments()["end"].iloc[-1] == 60.0


def test_settings_of_windows_are_checked(classifier, tmp_path):
    path = write_noise(tmp_path / "a.wav")
    for window, hop in ((1, 2), (0, 0), (1, 0), (-1, -1), (np.nan, 1)):
        with pytest.raises(ValueError, match="hop"):
            classifier.classify_long(path, window, hop)
    with pytest.raises(ValueError, match="hop"):
        classifier.classify_long(path, np.inf)
    with pytest.raises(ValueError, match="batch_size"):
        classifier.classify_long(path, batch_size=0)
    with pytest.raises(ValueError, match="a.wav: 'soon'"):
        classifier.classify_long(path, record_time="soon")
    with pytest.raises(ValueError, match="none.wav: file not found"):
        classifier.classify_long("none.wav")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_get_the_answers_of_one(source, tmp_path, precision):
    classifier = SceneClassifier.from_hparams(
        source=source, run_opts={"device": "cpu", "precision": precision}
    )
    wavs = 0.1 * torch.randn(24, 9000)
    path = write_noise(tmp_path / "a.wav", 1.0, 8000)

    def ask(i):
        place, time = METADATA[i % 4]
        return (
            classifier.classify_batch(wavs[i], None, place, time)[0],
            classifier.classify_file(path, place, time)[0],
            classifier.embed_batch(wavs[i], None, place, time),
        )

    alone = [ask(i) for i in range(len(wavs))]
    with ThreadPoolExecutor(6) as pool:
        for ours, expected in zip(pool.map(ask, range(len(wavs))), alone):
            torch.testing.assert_close(ours, expected)


def test_embeddings_are_what_the_classifier_sees(stage, classifier):
    wavs, lengths = 0.1 * torch.randn(2, 9000), torch.tensor([1.0, 0.5])
    embedding = classifier.embed_batch(
        wavs, lengths, ["Xi'an", None], "2023-04-21 18:30:00"
    )
    assert embedding.shape == (2, stage["model"].embedding_size)
    out_prob, *_ = classifier.classify_batch(
        wavs, lengths, ["Xi'an", None], "2023-04-21 18:30:00"
    )
    logits = stage["model"].classifier(embedding)
    torch.testing.assert_close(logits.log_softmax(-1), out_prob)


def test_precision_and_engine_are_chosen_and_logged(source, caplog):
    wav = 0.1 * torch.randn(RATE)
    answers = {}
    for precision in ("fp32", "bf16", "fp16"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            classifier = SceneClassifier.from_hparams(
                source=source,
                run_opts={"device": "cpu", "precision": precision},
            )
        assert f"Classifying on cpu in {precision}" in caplog.text
        assert f"selective scan: {classifier.engine}" in caplog.text
        answers[precision] = classifier.classify_batch(wav)[0].exp()
    exact = answers.pop("fp32")
    for rough in answers.values():
        assert not torch.equal(rough, exact)
        torch.testing.assert_close(rough, exact, atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="fp8"):
        SceneClassifier.from_hparams(
            source=source, run_opts={"precision": "fp8"}
        )


SAME_TIME = [
    "2023-04-21 18:30:00",
    "2023-04-21T18:30",
    "2023-04-21T18:30:00+08:00",
    datetime.datetime(2023, 4, 21, 18, 59),
    pd.Timestamp("2023-04-21 18:30"),
    np.datetime64("2023-04-21T18:30"),
]


def test_a_time_may_be_written_in_many_ways(classifier):
    wav = 0.1 * torch.randn(9000)
    answers = [
        classifier.classify_batch(wav, record_time=time)[0]
        for time in SAME_TIME
    ]
    together, *_ = classifier.classify_batch(
        wav.expand(len(SAME_TIME), -1), record_time=pd.Series(SAME_TIME)
    )
    for answer, row in zip(answers, together):
        assert torch.equal(answer, answers[0])
        torch.testing.assert_close(row, answers[0][0])
    day, *_ = classifier.classify_batch(
        wav, record_time=datetime.date(2023, 4, 21)
    )
    again, *_ = classifier.classify_batch(wav, record_time="2023-04-21")
    assert torch.equal(day, again) and not torch.equal(day, answers[0])


def test_time_in_the_future_is_used_and_warned_of_once(source, caplog):
    classifier = SceneClassifier.from_hparams(source=source)
    wav = 0.1 * torch.randn(9000)
    past, *_ = classifier.classify_batch(wav, None, None, "2023-04-21 18:30")
    assert "future" not in caplog.text
    # A Friday in April, too.
    for time in ("2523-04-02 18:30", "2523-04-02T18:30+01:00"):
        future, *_ = classifier.classify_batch(wav, None, None, time)
        assert torch.equal(past, future)
    assert caplog.text.count("lies in the future") == 1


def test_place_that_is_unknown_is_read_by_its_letters(classifier):
    wav = 0.1 * torch.randn(9000)
    answers = [
        classifier.classify_batch(wav, None, place)[0]
        for place in (None, "Berlin", "Bern", "北京", "x" * 10000)
    ]
    assert all(answer.isfinite().all() for answer in answers)
    assert not torch.equal(answers[1], answers[2])
    assert not torch.equal(answers[0], answers[1])
