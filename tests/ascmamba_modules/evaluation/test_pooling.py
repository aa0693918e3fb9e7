"""Posteriors of a session's clips, put together."""

import numpy as np

from ascmamba_modules.evaluation.pooling import parts_of_groups, pool_by_group


def test_equal_clips_keep_their_posteriors():
    posteriors = np.random.default_rng(0).dirichlet(np.ones(4), 3)
    x = np.repeat(np.log(posteriors), 5, axis=0)
    groups = np.repeat(["a", "b", "c"], 5)
    np.testing.assert_allclose(pool_by_group(x, groups), x)


def test_many_weak_clips_are_surer_of_the_class_than_one():
    rng = np.random.default_rng(1)
    targets = rng.integers(4, size=50)
    logits = rng.normal(size=(50, 20, 4)) + np.eye(4)[targets][:, None]
    x = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    x, groups = x.reshape(-1, 4), np.repeat(np.arange(50), 20)
    truth = np.repeat(targets, 20)
    alone = (x.argmax(1) == truth).mean()
    pooled = (pool_by_group(x, groups).argmax(1) == truth).mean()
    assert alone < 0.7 and pooled > 0.95


def test_sure_and_impossible_answers():
    x = np.array([[0, -np.inf, -np.inf], np.log([0.2, 0.4, 0.4])])
    pooled = pool_by_group(x, ["a", "a"])
    assert np.isfinite(pooled).all() and (pooled.argmax(1) == 0).all()
    even = np.log(np.full((2, 3), 1 / 3))
    np.testing.assert_allclose(pool_by_group(even, ["a", "a"]), even)


def test_parts():
    groups = np.repeat(["a", "b"], [7, 2])
    for size, count in ((1, 9), (2, 5), (7, 2), (99, 2)):
        parts = parts_of_groups(groups, size, seed=3)
        names, counts = np.unique(parts, return_counts=True)
        assert len(names) == count and counts.max() <= size
        assert all(part[0] == group for part, group in zip(parts, groups))
    assert parts_of_groups(groups, 2, 0) != parts_of_groups(groups, 2, 1)
