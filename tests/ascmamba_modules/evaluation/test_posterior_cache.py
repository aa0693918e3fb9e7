"""Posteriors are those of the classifier, each computed once."""

import numpy as np
import pytest
import torch

from ascmamba_modules.evaluation.perturbations import shuffle_place_and_time
from ascmamba_modules.evaluation.posterior_cache import PosteriorCache
from ascmamba_modules.evaluation.protocols import ScoredClips, score_audio


@pytest.fixture
def answers(make_answers):
    return make_answers(use_context=True)


@pytest.fixture
def asked(answers):
    """Sizes of the batches that the model has seen."""
    sizes = []
    answers.classifier.mods.model.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0]))
    )
    return sizes


def test_answers_are_those_of_the_classifier(answers, noises):
    found = answers.log_posteriors(noises)
    for row, clip in zip(noises.itertuples(), found):
        expected = answers.classifier.classify_file(
            row.wav, row.location, row.record_time
        )[0][0]
        np.testing.assert_allclose(clip, expected, atol=1e-4)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)


def test_only_what_changed_is_asked_again(answers, noises, asked):
    first = answers.log_posteriors(noises)
    assert sum(asked) == 12 and max(asked) == answers.batch_size
    asked.clear()
    np.testing.assert_array_equal(answers.log_posteriors(noises), first)
    assert not asked
    shuffled = shuffle_place_and_time(noises, 0.25, seed=0)
    changed = (shuffled["location"] != noises["location"]) | (
        shuffled["record_time"] != noises["record_time"]
    )
    second = answers.log_posteriors(shuffled)
    assert sum(asked) == changed.sum() == 3
    np.testing.assert_array_equal(second[~changed], first[~changed])
    assert (second[changed] != first[changed]).any(1).all()


def test_a_model_without_context_is_asked_once(make_answers, noises):
    answers = make_answers(use_context=False)
    first = answers.log_posteriors(noises)
    answers.classifier.mods.model = None  # would fail if it were asked
    shuffled = shuffle_place_and_time(noises, 1.0, seed=0)
    np.testing.assert_array_equal(answers.log_posteriors(shuffled), first)


def test_hidden_audio_leaves_place_and_time(answers, noises):
    hidden = answers.log_posteriors(noises, hide_audio=True)
    assert np.isfinite(hidden).all()
    # Others of the same length, which is not hidden.
    swapped = noises.assign(wav=np.roll(noises["wav"], 3))
    np.testing.assert_allclose(
        answers.log_posteriors(swapped, hide_audio=True), hidden, atol=1e-5
    )
    assert not np.allclose(hidden, answers.log_posteriors(noises), atol=1e-3)
    place = noises.assign(location=noises["location"].to_numpy()[::-1])
    found = answers.log_posteriors(place, hide_audio=True)
    assert not np.allclose(found, hidden, atol=1e-4)


def test_classes_come_in_the_order_asked_for(answers, noises):
    own = answers.classifier.classes
    other = PosteriorCache(answers.classifier, answers.cache, own[::-1])
    np.testing.assert_allclose(
        other.log_posteriors(noises)[:, ::-1],
        answers.log_posteriors(noises),
        atol=1e-5,
    )


def test_embeddings_are_what_the_classifier_sees(answers, noises):
    model = answers.classifier.mods.model
    found = answers.embeddings(noises)
    assert found.shape == (12, model.embedding_size)
    weight, bias = (p.detach().numpy() for p in model.classifier.parameters())
    logits = found @ weight.T + bias
    log_posteriors = answers.log_posteriors(noises)
    np.testing.assert_allclose(
        logits - logits[:, :1],
        log_posteriors - log_posteriors[:, :1],
        atol=1e-4,
    )
    answers.classifier.mods.model = torch.nn.Identity()
    assert answers.embeddings(noises) is None


def test_changed_audio_is_what_the_model_hears(answers, noises):
    same = answers.changed_log_posteriors(noises, lambda x, rate, number: x)
    first = answers.log_posteriors(noises)
    np.testing.assert_allclose(same, first, atol=1e-4)

    def brighter(samples, rate, number):
        assert rate == answers.classifier.audio_normalizer.sample_rate
        return np.diff(samples) if number == 3 else samples

    found = answers.changed_log_posteriors(noises, brighter)
    is_changed = np.abs(found - first).max(1) > 1e-3
    assert is_changed.tolist() == [i == 3 for i in range(len(noises))]


def test_score_of_changed_audio(answers, noises):
    clips = ScoredClips(noises, answers.classifier.classes)
    changes = {"silence": lambda samples, rate, number: 0 * samples}
    frame = score_audio({"one": answers}, clips, "devices", changes)
    frame = frame[frame["metric"] == "accuracy"].set_index("condition")
    for condition, log_posteriors in (
        ("as recorded", answers.log_posteriors(noises)),
        ("silence", answers.changed_log_posteriors(noises, changes["silence"])),
    ):
        right = log_posteriors.argmax(1) == clips.targets
        assert frame["value"][condition] == right.mean()
