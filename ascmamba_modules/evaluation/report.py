"""The report of an evaluation: plots, tables, one page."""

from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from ascmamba_modules.data.sessions import find_places
from ascmamba_modules.evaluation import page
from ascmamba_modules.evaluation.calibration import (
    clip_losses,
    reliability_bins,
)
from ascmamba_modules.evaluation.embedding_map import map_embeddings
from ascmamba_modules.evaluation.tables import (
    curve_table,
    one_row_each,
    pair_table,
    recall_table,
)
from ascmamba_modules.plots import (
    plot_bars,
    plot_confusion,
    plot_curves,
    plot_embedding,
    plot_reliability,
    plot_similarity,
    plot_spectrogram,
    save_figure,
)

_SUMMARY_CAPTION = (
    "Macro accuracy in per cent, with its 95 % interval where there is one; "
    "audio only: place and time unknown; metadata only: the audio replaced by "
    "the training set's mean; shuffled, moved: all clips with another's place "
    "and time, or with an unseen place; log-loss in nats; ECE: expected "
    "calibration error in per cent."
)
_SHORT = {"log_loss": "log-loss", "expected_calibration_error": "ECE"}
_INTERVAL = "Whiskers: 95 % bootstrap intervals, sessions drawn."


class EvaluationReport:
    """Gathers sections, and writes their plots and the page.

    Each figure is written at once, as ``plots/<name>.png`` and ``.svg``.

    Arguments
    ---------
    folder : str or Path
        Where to write.
    results : pandas.DataFrame
        All rows, see :mod:`ascmamba_modules.evaluation.protocols`.
    models : dict
        A :class:`~ascmamba_modules.evaluation.posterior_cache.PosteriorCache`
        for each model, by name.
    clips : ascmamba_modules.evaluation.protocols.ScoredClips
        The clips.
    """

    def __init__(self, folder, results, models, clips):
        self.folder = Path(folder)
        self.results = results
        self.models = models
        self.clips = clips
        self.sections = []

    def add_overview(self, summary, notes):
        """The summary, the pairs, and what was left out.

        Arguments
        ---------
        summary : pandas.DataFrame
            From :func:`~ascmamba_modules.evaluation.tables.summarise`.
        notes : list
            Texts.
        """
        bars = self._rows("all clips", "macro_accuracy")
        blocks = [
            page.Table(summary, _SUMMARY_CAPTION),
            self._figure(
                "macro_accuracy",
                plot_bars(bars),
                f"Macro accuracy. {_INTERVAL}",
            ),
        ]
        pairs = self._rows("paired test")
        if len(pairs):
            blocks.append(
                page.Table(
                    pair_table(pairs),
                    "Each two models on the same clips: difference in macro "
                    "accuracy in points, its interval, and the p-value of a "
                    "permutation test that swaps the answers to whole "
                    "sessions. The p-values are not corrected for the number "
                    "of pairs.",
                )
            )
        self._add("Overview", " ".join(notes), blocks)

    def add_classes(self):
        """Recalls of the classes, and confusion matrices."""
        clips = self.clips
        blocks = [
            page.Table(
                recall_table(self.results),
                "Recall of each class in per cent, in the form of the paper's "
                "Table 3; the average is macro accuracy, over the classes "
                "that have clips.",
            )
        ]
        for name, answers in self.models.items():
            found = answers.log_posteriors(clips.table).argmax(1)
            matrix = confusion_matrix(
                clips.targets, found, labels=range(len(clips.classes))
            )
            blocks.append(
                self._figure(
                    f"confusion_{name}",
                    plot_confusion(matrix, clips.classes),
                    f"{name}: which classes it takes for which.",
                )
            )
        self._add("Classes", "", blocks)

    def add_place_and_time(self):
        """What models make of place and time, right, wrong or hidden."""
        blocks = [
            self._figure(
                "audio_and_metadata",
                plot_bars(self._rows("audio and metadata", "macro_accuracy")),
                "Both: as recorded. Audio only: place and time unknown. "
                "Metadata only: every frame replaced by the mean of the "
                "training set; beside it a decision tree on place and time "
                f"alone. {_INTERVAL}",
            )
        ]
        for protocol, name, xlabel in (
            (
                "shuffled place and time",
                "shuffled",
                "clips that exchange place and time in %",
            ),
            (
                "unseen places",
                "unseen_places",
                "clips moved to unseen places in %",
            ),
        ):
            curves = curve_table(self._rows(protocol, "macro_accuracy"))
            if len(curves):
                blocks.append(
                    self._figure(
                        name,
                        plot_curves(curves, xlabel),
                        f"Macro accuracy, {protocol}, on "
                        f"{curves['clips'].max()} clips: mean and one "
                        "standard deviation over seeds.",
                    )
                )
        self._add("Place and time", "", blocks)

    def add_difficulty(self, similarities, kind, threshold):
        """Valid-Easy and Valid-Hard.

        Arguments
        ---------
        similarities : dict
            Cosine similarities (clips) by kind.
        kind : str
            The kind that divides the clips.
        threshold : float
            Where.
        """
        text = (
            "The paper (4.1) compares mean and variance of each clip's log-mel "
            "features to the evaluation set's by cosine similarity; clips "
            f"above the threshold, here {threshold:g}, are Valid-Hard. It "
            "leaves open how the two are scaled and what stands for the "
            "evaluation set. Nearest: each statistic standardised over the "
            "evaluation clips, the largest similarity with any of these. Mean: "
            "raw dB statistics against their mean, which depends on the "
            "recorder's gain and finds most clips alike. The clips are "
            f"divided by: {kind}."
        )
        blocks = [
            self._figure(
                f"similarity_{name}",
                plot_similarity(values, threshold),
                f"Similarity to the evaluation set: {name}.",
            )
            for name, values in similarities.items()
        ]
        blocks.append(
            self._figure(
                "difficulty",
                plot_bars(self._rows("difficulty", "macro_accuracy")),
                f"Macro accuracy. {_INTERVAL}",
            )
        )
        self._add("Valid-Easy and Valid-Hard", text, blocks)

    def add_conditions(self):
        """How new the clips are to the training set."""
        rows = self._rows("seen in training", "macro_accuracy")
        text = (
            "Each clip is in the first of these that is true of it: its "
            "session is in the training set; its city on that day; its city; "
            "none. Where the decision tree, which sees place and time "
            "alone, scores high, so can a model that has not "
            "learned to hear scenes."
        )
        figure = self._figure(
            "seen_in_training",
            plot_bars(rows),
            f"Macro accuracy, over the classes that occur. {_INTERVAL}",
        )
        self._add("New sessions, days and cities", text, [figure])

    def add_calibration(self, scaled):
        """Reliability before and after temperature scaling.

        Arguments
        ---------
        scaled : dict
            Scaled log-posteriors by model; empty if there are none.
        """
        clips = self.clips
        blocks = []
        rows = self._rows("calibration")
        if len(rows):
            blocks.append(
                page.Table(
                    one_row_each(rows, ["model", "condition"])
                    .round(3)
                    .rename(columns=_SHORT),
                    "Log-loss in nats; ECE: expected calibration error over "
                    "15 bins of equal width, 0 to 1.",
                )
            )
        for name, answers in self.models.items():
            found = answers.log_posteriors(clips.table)
            bins = {"as trained": reliability_bins(clips.targets, found)}
            if name in scaled:
                bins["temperature scaled"] = reliability_bins(
                    clips.targets, scaled[name]
                )
            blocks.append(
                self._figure(
                    f"reliability_{name}",
                    plot_reliability(bins),
                    f"{name}: how often it is right when it is so sure.",
                )
            )
        text = (
            "The temperature of a clip was fitted on clips of other sessions, "
            "in five parts."
        )
        self._add("Calibration", text, blocks)

    def add_maps(self):
        """Maps of the embeddings, by class and by city."""
        table = self.clips.table
        groups = {
            "class": table["scene_label"],
            "city": find_places(table).replace("", "unknown"),
        }
        blocks = []
        for name, answers in self.models.items():
            embeddings = answers.embeddings(table)
            if embeddings is None:
                continue
            coordinates = map_embeddings(embeddings)
            blocks += [
                self._figure(
                    f"map_by_{by}_{name}",
                    plot_embedding(coordinates, list(names), by),
                    f"{name}, by {by}.",
                )
                for by, names in groups.items()
            ]
        text = (
            "What the last layer sees of each clip, laid out by t-SNE: clips "
            "near each other are alike to the model; long distances mean "
            "nothing."
        )
        self._add("Maps", text, blocks)

    def add_hardest(self, cache, number):
        """The clips with the largest loss, to see and to hear.

        Arguments
        ---------
        cache : ascmamba_modules.data.feature_cache.FeatureCache
            Holds the clips' features.
        number : int
            How many.
        """
        clips = self.clips
        found = {
            name: answers.log_posteriors(clips.table)
            for name, answers in self.models.items()
        }
        losses = [clip_losses(clips.targets, given) for given in found.values()]
        hop = cache.features.hop_samples / cache.features.sample_rate
        blocks = []
        for place in np.argsort(-np.mean(losses, axis=0), kind="stable")[
            :number
        ]:
            row = clips.table.iloc[place]
            heard = "; ".join(
                f"{name}: {clips.classes[given[place].argmax()]} "
                f"{100 * np.exp(given[place].max()):.0f} %"
                for name, given in found.items()
            )
            figure = plot_spectrogram(
                cache.load(row["wav"]).numpy(), hop, row["scene_label"]
            )
            where = row["location"] or "place unknown"
            when = row["record_time"] or "time unknown"
            caption = (
                f"{row['scene_label']} ({row['ID']}, {where}, {when}). {heard}."
            )
            blocks.append(page.Audio(row["wav"], caption, figure))
        text = "Largest log-loss, mean of all models."
        self._add("Hardest clips", text, blocks)

    def write(self, title):
        """Writes ``report.html``.

        Arguments
        ---------
        title : str
            Of the page.

        Returns
        -------
        Path
            The page.
        """
        path = self.folder / "report.html"
        page.write_page(path, title, self.sections)
        return path

    def _rows(self, protocol, metric=None):
        chosen = self.results["protocol"] == protocol
        if metric is not None:
            chosen &= self.results["metric"] == metric
        return self.results[chosen]

    def _figure(self, name, figure, caption):
        for suffix in (".png", ".svg"):
            save_figure(figure, self.folder / "plots" / f"{name}{suffix}")
            # It is laid out now; to do it again takes longer than to draw.
            figure.set_layout_engine("none")
        return page.Figure(figure, caption)

    def _add(self, title, text, blocks):
        self.sections.append(page.Section(title, text, blocks))
