"""Posteriors of a trained model, cached by clip, place and time."""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.data.place_and_time import location_text, time_text


class PosteriorCache:
    """Computes a model's posteriors once for each clip, place and time.

    After a protocol has changed the place and time of some clips, the model
    runs on these alone, and on none if it does not use place and time.

    Arguments
    ---------
    classifier : ascmamba_modules.inference.SceneClassifier
        The model.
    cache : ascmamba_modules.data.feature_cache.FeatureCache
        Holds the clips' features, computed with the model's settings.
    classes : list
        Names of the model's classes, in the order that the posteriors are to
        have.
    batch_size : int
        Clips in a batch.
    """

    def __init__(self, classifier, cache, classes, batch_size=16):
        self.classifier = classifier
        self.cache = cache
        self.batch_size = batch_size
        self._order = [classifier.classes.index(name) for name in classes]
        self._log_posteriors = {}

    @property
    def uses_context(self):
        """Whether the model takes place and time."""
        return "context_encoder" in self.classifier.mods

    def log_posteriors(self, table, hide_audio=False):
        """Gives the log-posteriors of clips.

        Arguments
        ---------
        table : pandas.DataFrame
            Rows with wav, location and record_time, the latter two empty
            where unknown.
        hide_audio : bool
            Whether the model gets, in place of each clip, as many frames of
            the training set's mean, see :meth:`~ascmamba_modules.inference
            .SceneClassifier.posteriors_from_features`.

        Returns
        -------
        numpy.ndarray
            (clips, classes), float64.
        """
        rows = table[["wav", "location", "record_time"]]
        keys = [
            (*self._key(*row), hide_audio) for row in rows.itertuples(False)
        ]
        missing = {
            key: row
            for key, row in zip(keys, rows.itertuples(False))
            if key not in self._log_posteriors
        }
        new_keys, new_rows = list(missing), list(missing.values())
        for start in range(0, len(new_keys), self.batch_size):
            batch = slice(start, start + self.batch_size)
            computed = self._infer(new_rows[batch], hide_audio)
            self._log_posteriors.update(zip(new_keys[batch], computed))
        return np.stack([self._log_posteriors[key] for key in keys])

    def changed_log_posteriors(self, table, change):
        """Gives the log-posteriors of clips whose audio is changed.

        Arguments
        ---------
        table : pandas.DataFrame
            As for :meth:`log_posteriors`.
        change : callable
            ``change(samples, rate, number)`` returns the changed samples
            (time) of the clip in row ``number``.

        Returns
        -------
        numpy.ndarray
            (clips, classes), float64.
        """
        normalizer, found = self.classifier.audio_normalizer, []
        for number, row in enumerate(table.itertuples()):
            samples = load_audio(row.wav, normalizer).numpy()
            samples = change(samples, normalizer.sample_rate, number)
            log_posteriors, *_ = self.classifier.classify_batch(
                torch.as_tensor(samples, dtype=torch.float32),
                *(None, row.location, row.record_time),
            )
            found.append(log_posteriors[0].double().cpu().numpy())
        return np.stack(found)[:, self._order]

    def embeddings(self, table):
        """Gives the vectors that the model's last layer sees.

        Arguments
        ---------
        table : pandas.DataFrame
            As for :meth:`log_posteriors`.

        Returns
        -------
        numpy.ndarray
            (clips, embedding_size); None if the model has no method
            ``embed``.
        """
        if not hasattr(self.classifier.mods.model, "embed"):
            return None
        rows = list(table.itertuples(False))
        parts = [
            self.classifier.embed_features(
                *self._inputs(rows[start : start + self.batch_size])
            )
            for start in range(0, len(rows), self.batch_size)
        ]
        return torch.cat(parts).cpu().numpy()

    def _key(self, wav, location, record_time):
        """What the posteriors of a clip depend on."""
        if not self.uses_context:
            return (wav,)
        return wav, location_text(location), time_text(record_time)

    def _infer(self, rows, hide_audio):
        log_posteriors = self.classifier.posteriors_from_features(
            *self._inputs(rows), hide_audio
        )
        return log_posteriors.double().cpu().numpy()[:, self._order]

    def _inputs(self, rows):
        """Features, lengths, places and times, from the cache."""
        features = [self.cache.load(row.wav) for row in rows]
        frames = torch.tensor([len(clip) for clip in features])
        return (
            pad_sequence(features, batch_first=True),
            frames / frames.max(),
            [row.location for row in rows],
            [row.record_time for row in rows],
        )
