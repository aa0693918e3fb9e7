"""The demo scenes: sound beside real recordings, and difficulty."""

import numpy as np
import pytest
import soundfile
import torch
from demo.scenes import DEVICES, SCENES, synthesise
from demo.world import CAS_SCENES, cas_table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import (
    GroupKFold,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ascmamba_modules.features import LogMel

RATE = 16000


def log_mel(samples, rate):
    features = LogMel(sample_rate=rate, f_max=8000.0, n_mels=32)
    return features(torch.tensor(samples[None], dtype=torch.float32))[0].numpy()


@pytest.mark.parametrize("scene", SCENES)
def test_clips_are_sound(scene):
    for clip in ("1", "2"):
        samples = synthesise(scene, "Hefei", "1", clip, 1.0, RATE, "a")
        assert samples.shape == (RATE,) and np.isfinite(samples).all()
        assert 1e-3 < np.abs(samples).max() < 0.96


def test_each_name_and_the_seed_change_the_clip():
    names = ["Bus", "Hefei", "1", "1", 0.1, RATE, "b", 0]
    base = synthesise(*names)
    assert np.array_equal(base, synthesise(*names))
    changes = {0: "Metro", 1: "Jinan", 2: "2", 3: "2", 6: "c", 7: 1}
    for index, other in changes.items():
        changed = [*names[:index], other, *names[index + 1 :]]
        assert not np.allclose(base, synthesise(*changed))


def test_devices_differ_by_channel_and_noise_alone():
    """One segment, heard by several devices at once."""

    def heard(device):
        return synthesise("Bus", "lyon", "1", "1", 1.0, RATE, device)

    for device in DEVICES:
        assert np.corrcoef(heard("a"), heard(device))[0, 1] > 0.6
    assert not np.allclose(heard("phone-1"), heard("phone-2"))


def statistics(samples, rate):
    """Fall of the spectrum and unrest in dB."""
    bands = log_mel(samples, rate)
    low, high = bands[:, 1:6].mean(), bands[:, 24:30].mean()
    return low - high, bands.std(0).mean()


def test_spectra_and_unrest_are_those_of_real_scenes(shared_data):
    files = sorted((shared_data / "ambience").glob("*.[owm][gap][gv3]"))
    real = []
    for path in files:
        samples, rate = soundfile.read(path, always_2d=True)
        real.append(statistics(samples[: 10 * rate].mean(1), rate))
    assert len(real) == 9
    lowest, highest = np.min(real, axis=0) - 0.5, np.max(real, axis=0)
    for scene, (cities, _, _) in CAS_SCENES.items():
        clips = [
            synthesise(scene, city, str(k), "1", 4.0, RATE, "recorder")
            for city in cities
            for k in range(4 // len(cities) + 1)
        ]
        median = np.median([statistics(x, RATE) for x in clips], axis=0)
        assert (median > lowest).all() and (median < highest).all(), scene


def test_random_split_is_easy_and_other_cities_are_hard():
    """With means and deviations of the bands, and logistic regression."""
    table = cas_table(20, seed=0)
    table = table[table["part"] == "dev"]
    columns = ["scene", "city", "session", "clip", "device"]
    features = []
    for row in table[columns].to_dict("records"):
        bands = log_mel(synthesise(**row, seconds=1.5, rate=RATE), RATE)
        features.append(np.concatenate([bands.mean(0), bands.std(0)]))
    labels = table["scene_label"].to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))

    def macro_accuracy(split, groups=None):
        found = cross_val_predict(
            model, features, labels, groups=groups, cv=split
        )
        # Scenes of one city have none to be tested in.
        cities = table.groupby("scene_label")["location"].nunique()
        several = list(cities.index[cities > 1])
        return recall_score(labels, found, labels=several, average="macro")

    random = macro_accuracy(StratifiedKFold(5, shuffle=True, random_state=0))
    n_cities = table["location"].nunique()
    city = macro_accuracy(GroupKFold(n_cities), table["location"])
    assert 0.55 < random < 0.99
    assert 0.2 < city < random - 0.1
