"""The report of an evaluation: plots, tables, one page."""

from datetime import date
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from ascmamba_modules.data.sessions import find_places
from ascmamba_modules.evaluation import page, tables
from ascmamba_modules.evaluation.calibration import (
    clip_losses,
    reliability_bins,
)
from ascmamba_modules.evaluation.embedding_map import map_embeddings
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

_INTERVAL = (
    "Whiskers: 95 % bootstrap intervals over sessions. Pale: fewer than 10 "
    "clips."
)


class EvaluationReport:
    """Collects sections, and writes their plots and the page.

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
        self.clips = clips
        self.models = models
        self.log_posteriors = {
            name: model.log_posteriors(clips.table)
            for name, model in models.items()
        }
        self.sections = []

    def add_overview(self, summary, notes):
        """Adds the summary and the pairs; ``notes`` are texts on the data."""
        blocks = [
            page.table(
                summary,
                "Macro accuracy in per cent, with its 95 % interval. Audio "
                "only: place and time unknown. Metadata only: the audio "
                "replaced by the training set's mean. Shuffled, moved: all "
                "clips with another's place and time, or with an unseen "
                "place. Log-loss in nats. ECE: expected calibration error in "
                "per cent. *: fewer than 10 clips.",
            ),
            self._bars("macro_accuracy", "all clips", "Macro accuracy"),
        ]
        pairs = tables.pair_table(self.results)
        if len(pairs):
            blocks.append(
                page.table(
                    pairs,
                    "Two models on the same clips: difference in macro "
                    "accuracy in points, its interval, and the p-value of a "
                    "permutation test that swaps whole sessions. The p-values "
                    "are not corrected for the number of pairs.",
                )
            )
        self._add("Overview", "\n".join(notes), blocks)

    def add_classes(self):
        """Adds recalls of the classes, and confusion matrices."""
        clips, blocks = self.clips, []
        for name, log_posteriors in self.log_posteriors.items():
            matrix = confusion_matrix(
                clips.targets,
                log_posteriors.argmax(1),
                labels=range(len(clips.classes)),
            )
            title = f"Confusion matrix of {name}"
            drawing = plot_confusion(matrix, clips.classes, title)
            caption = "In per cent of the clips of each true class."
            blocks.append(self._figure(f"confusion_{name}", drawing, caption))
        table = page.table(
            tables.recall_table(self.results),
            "Recall of each class in per cent, as in the paper's Table 3. The "
            "average is macro accuracy, over the classes that have clips. *: "
            "fewer than 10 clips.",
        )
        self._add("Classes", "", [table, *blocks])

    def add_place_and_time(self):
        """Adds scores with place and time right, wrong or hidden."""
        blocks = [
            self._bars(
                "audio_and_metadata",
                "audio and metadata",
                "Audio with and without place and time",
                "Both: as recorded. Audio only: place and time unknown. "
                "Metadata only: every frame replaced by the mean of the "
                "training set; beside it a decision tree on place and time. ",
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
            rows = tables.find_rows(self.results, protocol)
            if len(rows):
                shares = rows["condition"].str.removesuffix(" %").astype(float)
                title = protocol.capitalize()
                drawing = plot_curves(rows.assign(x=shares), xlabel, title)
                caption = (
                    f"Of {rows['clips'].max()} clips: mean and one standard "
                    "deviation over seeds."
                )
                blocks.append(self._figure(name, drawing, caption))
        self._add("Place and time", "", blocks)

    def add_difficulty(self, similarities, kind, threshold):
        """Adds Valid-Easy and Valid-Hard.

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
            "features with the evaluation set's by cosine similarity; clips "
            f"above the threshold, here {threshold:g}, are Valid-Hard. It "
            "leaves open how the two are scaled and what stands for the "
            "evaluation set. Nearest: each statistic is standardised over the "
            "evaluation clips, and the largest similarity to any of them "
            "counts. Mean: raw dB statistics against their mean, which depends "
            f"on the recorder's gain. The clips are divided by: {kind}."
        )
        blocks = [self._bars("difficulty", "difficulty", "By difficulty")]
        for name, values in similarities.items():
            title = f"Similarity to the evaluation set: {name}"
            drawing = plot_similarity(values, threshold, title)
            blocks.append(
                self._figure(f"similarity_{name}", drawing, f"{title}.")
            )
        self._add("Valid-Easy and Valid-Hard", text, blocks)

    def add_conditions(self):
        """Adds scores by how new the clips are to the training set."""
        text = (
            "Each clip counts in the first group that fits: its session is in "
            "the training set; its city on that day; its city; none of these. "
            "Where a decision tree on place and time alone scores high, so can "
            "a model that has not learned to recognise scenes."
        )
        protocol = "seen in training"
        bars = self._bars("seen_in_training", protocol, protocol.capitalize())
        self._add("New sessions, days and cities", text, [bars])

    def add_changes(self, protocol):
        """Adds scores of changed, pooled or unknown audio, by protocol."""
        text = {
            "devices": "The audio at another level, through filters, and "
            "reverberated in a small room.",
            "events": "Another sound mixed into each clip, at the given power "
            "of that of the clip.",
            "sessions": "Clips of one session put together, as many as the "
            "column says; the mean over seeds. This is transductive: an "
            "answer depends on other clips of the test.",
            "unknown": "Clips whose labels are not among the classes, told "
            "from the others by their likeness to the classes.",
        }[protocol]
        table = tables.audio_table(self.results, protocol)
        if protocol == "unknown":
            blocks = [page.table(table, "In per cent.")]
        else:
            bars = self._bars(protocol, protocol, protocol.capitalize())
            blocks = [page.table(table, "Macro accuracy in per cent."), bars]
        self._add(protocol.capitalize(), text, blocks)

    def add_calibration(self, scaled):
        """Adds reliability before and after temperature scaling.

        Arguments
        ---------
        scaled : dict
            Scaled log-posteriors by model; empty if there are none.
        """
        text, blocks = "", []
        if scaled:
            text = (
                "The temperature of a clip was fitted on clips of other "
                "sessions, in five parts."
            )
            table = tables.calibration_table(self.results)
            caption = (
                "Log-loss in nats; ECE: expected calibration error over 15 "
                "bins of equal width, in per cent."
            )
            blocks.append(page.table(table, caption))
        for name, log_posteriors in self.log_posteriors.items():
            given = {"as trained": log_posteriors}
            if name in scaled:
                given["temperature scaled"] = scaled[name]
            bins = {
                label: reliability_bins(self.clips.targets, values)
                for label, values in given.items()
            }
            drawing = plot_reliability(bins, f"Reliability of {name}")
            caption = "Accuracy against confidence, in 15 bins."
            blocks.append(self._figure(f"reliability_{name}", drawing, caption))
        self._add("Calibration", text, blocks)

    def add_maps(self):
        """Adds maps of the embeddings, by class and by city."""
        table = self.clips.table
        groups = {
            "class": table["scene_label"],
            "city": find_places(table).replace("", "unknown"),
        }
        blocks = []
        for name, model in self.models.items():
            embeddings = model.embeddings(table)
            if embeddings is None:
                continue
            coordinates = map_embeddings(embeddings)
            for by, names in groups.items():
                title = f"Embeddings of {name}, by {by}"
                drawing = plot_embedding(coordinates, list(names), title)
                blocks.append(
                    self._figure(f"map_by_{by}_{name}", drawing, f"By {by}.")
                )
        text = (
            "Input of the last layer for each clip, laid out by t-SNE: "
            "neighbours are alike to the model; long distances mean nothing."
        )
        self._add("Maps", text, blocks)

    def add_hardest(self, cache, number):
        """Adds the clips with the largest loss, to see and to hear.

        Arguments
        ---------
        cache : ascmamba_modules.data.feature_cache.FeatureCache
            Holds the clips' features.
        number : int
            How many.
        """
        clips = self.clips
        losses = np.mean(
            [
                clip_losses(clips.targets, x)
                for x in self.log_posteriors.values()
            ],
            axis=0,
        )
        hop = cache.features.hop_samples / cache.features.sample_rate
        blocks = []
        for place in np.argsort(-losses, kind="stable")[:number]:
            row = clips.table.iloc[place]
            predictions = "; ".join(
                f"{name}: {clips.classes[values[place].argmax()]} "
                f"{100 * np.exp(values[place].max()):.0f} %"
                for name, values in self.log_posteriors.items()
            )
            drawing = plot_spectrogram(
                cache.load(row["wav"]).numpy(), hop, row["scene_label"]
            )
            where = row["location"] or "place unknown"
            when = row["record_time"] or "time unknown"
            caption = (
                f"{row['scene_label']} ({row['ID']}, {where}, {when}). "
                f"{predictions}."
            )
            blocks.append(page.audio(row["wav"], caption, drawing))
        self._add(
            "Hardest clips", "Largest mean log-loss of all models.", blocks
        )

    def write(self, manifest, split):
        """Writes ``report.html``.

        Arguments
        ---------
        manifest : str or Path
            Of the clips.
        split : str
            Its split that was evaluated.

        Returns
        -------
        Path
            The page.
        """
        path = self.folder / "report.html"
        n, clips = len(self.models), self.clips
        title = (
            f"Evaluation of {n} model{'s' * (n > 1)} on {Path(manifest).name}"
        )
        details = (
            f"{date.today():%Y-%m-%d}. Split {split} of {manifest}: "
            f"{len(clips.table)} clips of {len(set(clips.sessions))} sessions."
        )
        lead = tables.headline(self.results)
        page.write_page(path, title, self.sections, lead, details)
        return path

    def _bars(self, name, protocol, title, text=""):
        drawing = plot_bars(tables.find_rows(self.results, protocol), title)
        return self._figure(name, drawing, text + _INTERVAL)

    def _figure(self, name, drawing, caption):
        block = page.figure(drawing, caption)
        drawing.set_layout_engine("none")  # it is laid out by now
        plots = self.folder / "plots"
        save_figure(drawing, plots / f"{name}.png")
        (plots / f"{name}.svg").write_bytes(block["svg"])
        return block

    def _add(self, title, text, blocks):
        self.sections.append((title, text, blocks))
