"""The sounds of the demo: repeatable, and as hard as they should be."""

import numpy as np
import torch
from demo.make_corpora import CAS_SCENES, COCHLSCENE_SCENES, TAU_SCENES
from demo.scenes import SCENES, synthesise
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ascmamba_modules.features import LogMel

RATE = 16000


def test_all_scenes_have_a_sound():
    named = {*CAS_SCENES, *TAU_SCENES.values(), *COCHLSCENE_SCENES.values()}
    assert named == set(SCENES)
    for scene in SCENES:
        samples = synthesise(scene, "Hefei", "1", "1", "a", 0.2, RATE)
        assert samples.shape == (RATE // 5,) and samples.dtype == np.float32
        assert 1e-3 < np.abs(samples).max() <= 0.95


def test_each_name_and_the_seed_change_the_clip():
    names = ["Bus", "Hefei", "1", "1", "b", 0.1, RATE, 0]
    base = synthesise(*names)
    assert np.array_equal(base, synthesise(*names))
    for index, other in enumerate(["Metro", "Jinan", "2", "2", "c"]):
        changed = [*names[:index], other, *names[index + 1 :]]
        assert not np.allclose(base, synthesise(*changed))
    assert not np.allclose(base, synthesise(*names[:-1], 1))


def test_devices_hear_one_sound():
    a, b = (
        synthesise("Bus", "lyon", "1", "1", device, 1.0, RATE)
        for device in "ab"
    )
    assert np.corrcoef(a, b)[0, 1] > 0.6 and not np.allclose(a, b)


def test_random_split_is_easier_than_sessions_and_sessions_than_cities():
    """By means and deviations of the bands."""
    features = LogMel(sample_rate=RATE, f_max=8000.0, n_mels=32)
    inputs, labels, sessions, cities = [], [], [], []
    for scene, (own, _, _) in CAS_SCENES.items():
        for city in (*own, "Dalian", "Kunming")[:3]:
            for number in range(9):
                session = f"session {number // 3}"
                clip = str(number)
                samples = synthesise(
                    scene, city, session, clip, "recorder", 0.3, RATE
                )
                bands = features(torch.tensor(samples)[None])[0]
                inputs.append(torch.cat([bands.mean(0), bands.std(0)]))
                labels.append(scene)
                sessions.append(f"{scene} {city} {session}")
                cities.append(city)
    inputs = torch.stack(inputs).numpy()
    model = make_pipeline(StandardScaler(), SVC(C=10))

    def score(folds, groups=None):
        return cross_val_score(
            model, inputs, labels, groups=groups, cv=folds
        ).mean()

    random = score(StratifiedKFold(5, shuffle=True, random_state=0))
    session = score(GroupKFold(5), sessions)
    city = score(GroupKFold(len(set(cities))), cities)
    assert random - 0.05 > session > city + 0.1
    assert session > 0.5 and city > 0.2
