"""The protocols that compare models, as rows of one long table.

Each function returns a :class:`pandas.DataFrame` with the columns ``COLUMNS``:
one number a row.  ``seed`` is the seed of a random protocol; it is empty for
other protocols and in the row of the mean over seeds.  ``lower`` and ``upper``
are the 95 % bootstrap interval by session or, for a mean over seeds, one
standard deviation around it; they are empty where there is neither.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from ascmamba_modules.data.metadata_baseline import classify_by_metadata
from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.evaluation.bootstrap import (
    interval_by_session,
    paired_test,
)
from ascmamba_modules.evaluation.calibration import (
    clip_losses,
    coverage_by_session,
    expected_calibration_error,
    scale_by_session,
)
from ascmamba_modules.evaluation.perturbations import hide_place_and_time
from ascmamba_modules.evaluation.pooling import parts_of_groups, pool_by_group
from ascmamba_modules.evaluation.scores import macro_accuracy, per_class_table

COLUMNS = (
    "model",
    "protocol",
    "condition",
    "seed",
    "metric",
    "value",
    "lower",
    "upper",
    "clips",
)
METADATA_BASELINE = "metadata-only decision tree"


@dataclass(frozen=True)
class ScoredClips:
    """Labelled clips to score models on.

    Arguments
    ---------
    table : pandas.DataFrame
        Manifest rows, all labelled.
    classes : list
        Names of the classes, in the order of the models' posteriors.
    resamples : int
        Draws of the bootstrap.
    """

    table: pd.DataFrame
    classes: list
    resamples: int = 1000

    @cached_property
    def targets(self):
        """Class indices (clips)."""
        index = {name: number for number, name in enumerate(self.classes)}
        return self.table["scene_label"].map(index).to_numpy(int)

    @cached_property
    def sessions(self):
        """Recording session of each clip."""
        return find_sessions(self.table).to_numpy()

    def take(self, mask):
        """The clips that a mask (clips) selects."""
        return ScoredClips(self.table[mask], self.classes, self.resamples)

    def interval(self, values, macro):
        """Bootstrap interval of a mean, of the classes' means if macro."""
        targets = self.targets if macro else None
        return interval_by_session(
            values, self.sessions, targets, resamples=self.resamples
        )

    def macro_accuracy(self, predictions):
        """Macro accuracy of predicted indices, as a row."""
        right = predictions == self.targets
        score = macro_accuracy(self.targets, predictions)
        ends = self.interval(right, macro=True)
        return _score("macro_accuracy", score, len(right), ends)

    def scores(self, log_posteriors):
        """Scores of a model's log-posteriors, as rows: macro accuracy,
        accuracy, log-loss and expected calibration error."""
        n = len(self.targets)
        predictions = log_posteriors.argmax(1)
        right = predictions == self.targets
        losses = clip_losses(self.targets, log_posteriors)
        error = expected_calibration_error(self.targets, log_posteriors)
        ends, loss_ends = (self.interval(x, False) for x in (right, losses))
        return [
            self.macro_accuracy(predictions),
            _score("accuracy", right.mean(), n, ends),
            _score("log_loss", losses.mean(), n, loss_ends),
            _score("expected_calibration_error", error, n),
        ]

    def recalls(self, log_posteriors):
        """Recall of each class, as rows; of a class without clips NaN."""
        table = per_class_table(
            self.targets, log_posteriors.argmax(1), self.classes
        ).loc[self.classes]
        return [
            _score(f"recall {name}", row["recall"], int(row["clips"]))
            for name, row in table.iterrows()
        ]


def _score(metric, value, clips, ends=()):
    """A score as a row; ``ends`` are lower and upper, if there are any."""
    ends = dict(zip(("lower", "upper"), ends))
    return {"metric": metric, "value": value, **ends, "clips": clips}


def mean_score(metric, values, clips):
    """A mean as a row, with one standard deviation around it.

    Arguments
    ---------
    metric : str
        Its name.
    values : array-like
        The scores.
    clips : int
        How many were scored.

    Returns
    -------
    dict
        See the top of this file.

    Example
    -------
    >>> row = mean_score("accuracy", [0.5, 1.0], 4)
    >>> float(row["value"]), float(row["lower"]), float(row["upper"])
    (0.75, 0.5, 1.0)
    """
    mean, spread = np.mean(values), np.std(values)
    return _score(metric, mean, clips, (mean - spread, mean + spread))


def _rows(rows, model, protocol, condition):
    head = {"model": model, "protocol": protocol, "condition": condition}
    return [{**head, "seed": None, **row} for row in rows]


def _frame(rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def score_all(models, clips):
    """Scores and recalls of all clips as they are.

    Arguments
    ---------
    models : dict
        A :class:`~ascmamba_modules.evaluation.posterior_cache.PosteriorCache`
        for each model, by name.
    clips : ScoredClips
        The clips.

    Returns
    -------
    pandas.DataFrame
        See the top of this file.
    """
    name = "all clips"
    parts = np.full(len(clips.table), name)
    return score_parts(models, clips, name, parts, [name])


def score_parts(models, clips, protocol, parts, conditions):
    """Scores and recalls of parts of the clips.

    Arguments
    ---------
    models, clips
        As for :func:`score_all`.
    protocol : str
        Its name in the table.
    parts : array-like
        Name of the part of each clip.
    conditions : iterable
        The parts, in order; those without clips are left out.

    Returns
    -------
    pandas.DataFrame
        See the top of this file.
    """
    rows = []
    for condition in conditions:
        mask = np.asarray(parts) == condition
        if not mask.any():
            continue
        part = clips.take(mask)
        for name, model in models.items():
            log_posteriors = model.log_posteriors(part.table)
            scores = part.scores(log_posteriors) + part.recalls(log_posteriors)
            rows += _rows(scores, name, protocol, condition)
    return _frame(rows)


def score_metadata_baseline(training, clips, protocol, parts, conditions):
    """Macro accuracy of a decision tree on place and time, on parts of the
    clips, see :func:`~ascmamba_modules.data.metadata_baseline
    .classify_by_metadata`.

    Arguments
    ---------
    training : pandas.DataFrame
        Training clips, of which the tree needs labelled ones.
    clips, protocol, parts, conditions
        As for :func:`score_parts`.

    Returns
    -------
    pandas.DataFrame
        See the top of this file; no rows if no training clip has a label.
    """
    training = training[training["scene_label"] != ""]
    if training.empty:
        return _frame([])
    index = {name: number for number, name in enumerate(clips.classes)}
    names = pd.Series(classify_by_metadata(training, clips.table))
    # A class that the models do not have is never right.
    predictions = names.map(index).fillna(-1).to_numpy(int)
    rows = []
    for condition in conditions:
        mask = np.asarray(parts) == condition
        if mask.any():
            score = clips.take(mask).macro_accuracy(predictions[mask])
            rows += _rows([score], METADATA_BASELINE, protocol, condition)
    return _frame(rows)


def score_context(models, clips):
    """Scores with audio and metadata, and with either alone.

    Arguments
    ---------
    models, clips
        As for :func:`score_all`.

    Returns
    -------
    pandas.DataFrame
        See the top of this file.  Conditions: "both"; "audio only", place
        and time unknown; "metadata only", the audio replaced by the training
        set's mean, see
        :class:`~ascmamba_modules.evaluation.posterior_cache.PosteriorCache`.
        For a model that does not use place and time only "audio only".
    """
    hidden = hide_place_and_time(clips.table)
    rows = []
    for name, model in models.items():
        conditions = {"audio only": model.log_posteriors(hidden)}
        if model.uses_context:
            conditions = {
                "both": model.log_posteriors(clips.table),
                **conditions,
                "metadata only": model.log_posteriors(
                    clips.table, hide_audio=True
                ),
            }
        for condition, log_posteriors in conditions.items():
            scores = clips.scores(log_posteriors)
            rows += _rows(scores, name, "audio and metadata", condition)
    return _frame(rows)


def score_changed(models, clips, protocol, shares, seeds, change):
    """Macro accuracy after a random change to a share of the clips.

    Arguments
    ---------
    models, clips, protocol
        As for :func:`score_parts`.
    shares : list
        Shares of the clips, 0 to 1; share 0, the unchanged clips, is added.
    seeds : list
        Seeds of the changes.
    change : callable
        ``change(table, share, seed)`` returns the changed table.

    Returns
    -------
    pandas.DataFrame
        See the top of this file; conditions are shares as text, "5 %".  The
        smallest share also has the mean recall of each class.
    """
    rows = []
    for share in sorted({0.0, *shares}):
        scores = {name: [] for name in models}
        recalls = {name: [] for name in models}
        for seed in seeds if share else [None]:
            table = change(clips.table, share, seed) if share else clips.table
            for name, model in models.items():
                log_posteriors = model.log_posteriors(table)
                predictions = log_posteriors.argmax(1)
                scores[name].append(macro_accuracy(clips.targets, predictions))
                if share == min(shares):
                    recalls[name] += clips.recalls(log_posteriors)
        for name, values in scores.items():
            n = len(clips.table)
            parts = [
                {**_score("macro_accuracy", value, n), "seed": seed}
                for value, seed in zip(values, seeds if share else [])
            ]
            parts.append(mean_score("macro_accuracy", values, n))
            if recalls[name]:
                means = pd.DataFrame(recalls[name]).groupby(
                    "metric", sort=False, as_index=False
                )
                parts += means.mean().to_dict("records")
            rows += _rows(parts, name, protocol, f"{100 * share:g} %")
    return _frame(rows)


def score_audio(models, clips, protocol, changes):
    """Scores with the audio as it is, and changed.

    Arguments
    ---------
    models, clips, protocol
        As for :func:`score_parts`.
    changes : dict
        ``change(samples, rate, number)`` by condition, see
        :meth:`~ascmamba_modules.evaluation.posterior_cache.PosteriorCache
        .changed_log_posteriors`.

    Returns
    -------
    pandas.DataFrame
        See the top of this file; the condition of unchanged audio is "as
        recorded".
    """
    rows = []
    for name, model in models.items():
        found = {"as recorded": model.log_posteriors(clips.table)}
        for condition, change in changes.items():
            found[condition] = model.changed_log_posteriors(clips.table, change)
        for condition, log_posteriors in found.items():
            scores = clips.scores(log_posteriors)
            rows += _rows(scores, name, protocol, condition)
    return _frame(rows)


def score_pooled(models, clips, sizes, seeds, protocol="pooled by session"):
    """Scores of clips that share their session's answer.

    Arguments
    ---------
    models, clips, protocol
        As for :func:`score_parts`.
    sizes : list
        Clips of a session that are put together, at most; 1 is none.
    seeds : list
        Seeds of who is put together.

    Returns
    -------
    pandas.DataFrame
        See the top of this file; conditions are sizes as text, and "all".
    """
    rows = []
    for name, model in models.items():
        alone = model.log_posteriors(clips.table)
        for size in [*sizes, len(alone)]:
            values = []
            for seed in seeds:
                parts = parts_of_groups(clips.sessions, size, seed)
                pooled = pool_by_group(alone, parts).argmax(1)
                values.append(macro_accuracy(clips.targets, pooled))
            row = mean_score("macro_accuracy", values, len(alone))
            condition = "all" if size == len(alone) else str(size)
            rows += _rows([row], name, protocol, condition)
    return _frame(rows)


def score_unknown(models, clips, unknown):
    """How well models tell clips of classes that they do not have.

    Arguments
    ---------
    models, clips
        As for :func:`score_all`; the classifiers must have a ``reliance``.
    unknown : pandas.DataFrame
        Clips of other classes.

    Returns
    -------
    pandas.DataFrame
        See the top of this file.  Metrics: the area under the ROC curve, and
        the shares of the unknown and of the known clips that
        ``classify --unknown`` labels so.
    """
    everything = pd.concat([clips.table, unknown])
    is_unknown = np.arange(len(everything)) >= len(clips.table)
    rows = []
    for name, model in models.items():
        reliance = model.classifier.reliance
        embeddings = torch.from_numpy(model.embeddings(everything))
        found = ~reliance.knows(embeddings).numpy()
        likeness = reliance.similarity(embeddings).numpy()
        auroc = roc_auc_score(is_unknown, -likeness)
        right, wrong = found[is_unknown], found[~is_unknown]
        scores = [
            _score("AUROC", auroc, len(everything)),
            _score("unknown found", right.mean(), len(right)),
            _score("known taken for unknown", wrong.mean(), len(wrong)),
        ]
        rows += _rows(scores, name, "unknown", "unknown")
    return _frame(rows)


def score_calibration(models, clips):
    """Log-loss and calibration error before and after temperature scaling.

    Arguments
    ---------
    models, clips
        As for :func:`score_all`.

    Returns
    -------
    frame : pandas.DataFrame
        See the top of this file.  Conditions: "as trained" and "temperature
        scaled", fitted by
        :func:`~ascmamba_modules.evaluation.calibration.scale_by_session`; the
        metric ``temperature`` is the mean over the parts, with the smallest
        and the largest as lower and upper.  Sets of possible classes are of
        the scaled posteriors; without a row there were too few clips.
    scaled : dict
        The scaled log-posteriors by model.
    """
    rows, scaled = [], {}
    for name, model in models.items():
        log_posteriors = model.log_posteriors(clips.table)
        scaled[name], temperatures = scale_by_session(
            clips.targets, log_posteriors, clips.sessions
        )
        for condition, values in (
            ("as trained", log_posteriors),
            ("temperature scaled", scaled[name]),
        ):
            scores = [
                score
                for score in clips.scores(values)
                if score["metric"] in ("log_loss", "expected_calibration_error")
            ]
            rows += _rows(scores, name, "calibration", condition)
        n, ends = len(clips.table), (temperatures.min(), temperatures.max())
        found = [_score("temperature", temperatures.mean(), n, ends)]
        try:
            held, size = coverage_by_session(
                clips.targets, scaled[name], clips.sessions
            )
            found += [
                _score("coverage of 90 % sets", held, n),
                _score("classes in a 90 % set", size, n),
            ]
        except ValueError:
            pass  # too few clips to tell
        rows += _rows(found, name, "calibration", "temperature scaled")
    return _frame(rows), scaled


def compare_pairs(models, clips):
    """Differences in macro accuracy of all pairs of models, and their tests.

    Arguments
    ---------
    models, clips
        As for :func:`score_all`.

    Returns
    -------
    pandas.DataFrame
        See the top of this file; the condition names the two models.  The
        p-values, by :func:`~ascmamba_modules.evaluation.bootstrap
        .paired_test`, are each pair's own, not corrected for their number.
    """
    right = {
        name: model.log_posteriors(clips.table).argmax(1) == clips.targets
        for name, model in models.items()
    }
    rows = []
    for first, second in combinations(models, 2):
        a, b = right[first].astype(float), right[second].astype(float)
        difference, p_value = paired_test(a, b, clips.sessions, clips.targets)
        n, ends = len(a), clips.interval(a - b, macro=True)
        scores = [
            _score("macro_accuracy difference", difference, n, ends),
            _score("p_value", p_value, n),
        ]
        rows += _rows(scores, first, "paired test", f"against {second}")
    return _frame(rows)
