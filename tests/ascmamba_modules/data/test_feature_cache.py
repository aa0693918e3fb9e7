"""Features kept on disk: the same values, never stale, safe to share."""

import multiprocessing
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.data.feature_cache import FeatureCache
from ascmamba_modules.features import LogMel

FEATURES = dict(sample_rate=8000, n_fft=512, n_mels=8)


def write_clip(path, seed, seconds=0.5, rate=8000):
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate))
    soundfile.write(path, noise, rate)


@pytest.fixture
def clips(tmp_path):
    """Clips of several lengths; a name and a folder are not ASCII."""
    folder = tmp_path / "Aufnahmen für 北京"
    folder.mkdir()
    paths = [folder / f"{name}.wav" for name in ("a", "b", "c,d", "ü 1")]
    for seed, path in enumerate(paths):
        write_clip(path, seed, 0.3 + 0.2 * seed, (8000, 16000)[seed % 2])
    return paths


def make_cache(folder, dtype="float32", clip_length=None, **features):
    return FeatureCache(
        folder / "cache",
        LogMel(**{**FEATURES, **features}),
        AudioNormalizer(8000),
        clip_length,
        dtype,
    )


def compute(path, **features):
    waveform = load_audio(path, AudioNormalizer(8000))
    return LogMel(**{**FEATURES, **features})(waveform[None])[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cache_gives_the_features_themselves(clips, tmp_path, num_workers):
    cache = make_cache(tmp_path)
    cache.build(clips, num_workers)
    for path in clips[::-1]:
        torch.testing.assert_close(cache.load(path), compute(path))


def test_half_precision_is_near(clips, tmp_path):
    cache = make_cache(tmp_path, "float16")
    cache.build(clips)
    for path in clips:
        values = cache.load(path)
        assert values.dtype == torch.float32
        # Half a step of float16 between 64 and 128 dB.
        assert (values - compute(path)).abs().max() <= 2**-5


def count_computed(cache, paths, caplog):
    caplog.clear()
    caplog.set_level("INFO")
    cache.build(paths)
    message = caplog.messages[-1]
    return int(message.split(": ")[1].split(" clips computed")[0])


def test_only_new_and_changed_clips_are_computed(clips, tmp_path, caplog):
    cache = make_cache(tmp_path)
    assert count_computed(cache, clips[:2], caplog) == 2
    assert count_computed(cache, clips, caplog) == 2
    assert count_computed(make_cache(tmp_path), clips, caplog) == 0
    write_clip(clips[1], 77, 0.9)  # another size
    status = os.stat(clips[2])
    write_clip(clips[2], 78, 0.7)  # another time
    assert os.stat(clips[2]).st_size == status.st_size
    assert count_computed(cache, clips, caplog) == 2
    for path in clips:
        torch.testing.assert_close(cache.load(path), compute(path))


@pytest.mark.parametrize(
    "other",
    [{"n_mels": 6}, {"hop_length": 10.0}, {"top_db": 20.0}, {"f_max": 3000.0}],
)
def test_other_settings_have_a_cache_of_their_own(clips, tmp_path, other):
    first, second = make_cache(tmp_path), make_cache(tmp_path, **other)
    first.build(clips)
    second.build(clips)
    for path in clips:
        torch.testing.assert_close(first.load(path), compute(path))
        torch.testing.assert_close(second.load(path), compute(path, **other))


def test_fixed_length_is_part_of_the_settings(clips, tmp_path):
    cache = make_cache(tmp_path, clip_length=0.4)
    make_cache(tmp_path).build(clips)
    cache.build(clips)
    assert {len(cache.load(path)) for path in clips} == {20}


@pytest.mark.parametrize("left", [b"x", b"x" * 1000])
def test_killed_build_goes_on(clips, tmp_path, caplog, left):
    """The index knows nothing of what was written last."""
    cache = make_cache(tmp_path)
    cache.build(clips[:2])
    with open(cache.folder / "features.bin", "ab") as file:
        file.write(left)
    torch.testing.assert_close(cache.load(clips[1]), compute(clips[1]))
    assert count_computed(cache, clips, caplog) == 2
    for path in clips:
        torch.testing.assert_close(cache.load(path), compute(path))


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def overwrite(path, content):
    data = bytearray(path.read_bytes())
    data[: len(content)] = content
    path.write_bytes(data)


DAMAGES = {
    "data deleted": lambda data, index: data.unlink(),
    "data halved": lambda data, index: cut(data, 0.5),
    "data emptied": lambda data, index: cut(data, 0),
    "zeros in data": lambda data, index: overwrite(data, bytes(64)),
    "index emptied": lambda data, index: cut(index, 0),
    "index halved": lambda data, index: cut(index, 0.5),
    "last digit": lambda data, index: cut(index, 1 - 2.5 / 500),
    "zeros in index": lambda data, index: overwrite(index, bytes(200)),
    "random index": lambda data, index: overwrite(index, os.urandom(200)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("built", [2, 4])
def test_what_a_disk_has_lost_is_computed_anew(
    clips, tmp_path, caplog, damage, built
):
    cache = make_cache(tmp_path)
    cache.build(clips[:built])
    damage(cache.folder / "features.bin", cache.folder / "index.csv")
    make_cache(tmp_path).build(clips)
    assert f"{cache.folder}" in caplog.text  # a warning names it
    for path in clips:
        torch.testing.assert_close(cache.load(path), compute(path))


def test_data_cut_after_the_build_is_never_a_shorter_clip(clips, tmp_path):
    cache = make_cache(tmp_path)
    cache.build(clips)
    cut(cache.folder / "features.bin", 0.5)
    with pytest.raises(ValueError, match="features.bin is cut short"):
        cache.load(clips[-1])


def build_slowly(cache, paths):
    plain = cache.features.forward

    def slow(*args):
        time.sleep(0.05)
        return plain(*args)

    cache.features.forward = slow
    cache.build(paths)


def test_build_killed_at_any_moment(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ascmamba_modules.data.feature_cache._CLIPS_PER_COMMIT", 1
    )
    cache = make_cache(tmp_path)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=build_slowly, args=(cache, clips))
    process.start()
    index = cache.folder / "index.csv"
    while not index.exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    cache.build(clips)  # the lock of the dead is free
    for path in clips:
        torch.testing.assert_close(cache.load(path), compute(path))


def test_several_may_build_and_read_at_once(clips, tmp_path):
    caches = [make_cache(tmp_path) for _ in range(4)]
    threads = [
        threading.Thread(target=cache.build, args=(clips[number:],))
        for number, cache in enumerate(caches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, cache in enumerate(caches):
        for path in clips[number:]:
            torch.testing.assert_close(cache.load(path), compute(path))
    rows = sum(len(compute(path)) for path in clips)
    size = (caches[0].folder / "features.bin").stat().st_size
    assert size == rows * 8 * 4  # each clip once


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_of_a_loader_read_it(clips, tmp_path, start_method):
    cache = make_cache(tmp_path)
    cache.build(clips)
    cache.load(clips[0])
    assert len(pickle.dumps(cache)) < 2**16  # without the features
    dataset = DynamicItemDataset(
        {str(i): {"wav": str(path)} for i, path in enumerate(clips)}
    )
    dataset.add_dynamic_item(cache.load, takes="wav", provides="feats")
    dataset.set_output_keys(["feats"])
    loader = make_dataloader(
        dataset,
        batch_size=4,
        num_workers=2,
        multiprocessing_context=start_method,
    )
    (batch,) = loader
    for row, length, path in zip(*batch.feats, clips):
        frames = round(length.item() * batch.feats.data.shape[1])
        torch.testing.assert_close(row[:frames], compute(path))


def test_unknown_type():
    with pytest.raises(ValueError, match="float16 or float32, not 'int8'"):
        FeatureCache("x", LogMel(), AudioNormalizer(44100), None, "int8")
