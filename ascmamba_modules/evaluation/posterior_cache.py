"""What trained models say of clips, asked no more often than need be."""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ascmamba_modules.data.place_and_time import location_text, time_text


class PosteriorCache:
    """The posteriors that a model gives, kept for each clip, place and time.

    A protocol that changes place and time of some clips has the model run on
    these alone, and on none if the model takes no place and time.

    Arguments
    ---------
    classifier : ascmamba_modules.inference.SceneClassifier
        The model.
    cache : ascmamba_modules.data.feature_cache.FeatureCache
        Holds the clips' features, in the setting of the model.
    classes : list
        Names of the model's classes, in the order in which the posteriors
        are to be.
    batch_size : int
        Clips asked about at once.
    """

    def __init__(self, classifier, cache, classes, batch_size=16):
        self.classifier = classifier
        self.cache = cache
        self.batch_size = batch_size
        own = classifier.classes
        self._order = [own.index(name) for name in classes]
        self._kept = {}

    @property
    def uses_context(self):
        """Whether the model takes place and time."""
        return "context_encoder" in self.classifier.mods

    def log_posteriors(self, table, hide_audio=False):
        """Asks about clips.

        Arguments
        ---------
        table : pandas.DataFrame
            Rows with wav, location and record_time, the latter two empty
            where unknown.
        hide_audio : bool
            Whether the model hears, in place of the clip, the mean of its
            training set in every frame: zeros behind the normalisation, as
            many as the clip has.

        Returns
        -------
        numpy.ndarray
            (clips, classes), float64.
        """
        rows = table[["wav", "location", "record_time"]]
        keys = [
            (*self._key(*row), hide_audio) for row in rows.itertuples(False)
        ]
        # Of equal keys one is asked about.
        new = {key: row for key, row in zip(keys, rows.itertuples(False))}
        new = [(k, row) for k, row in new.items() if k not in self._kept]
        for start in range(0, len(new), self.batch_size):
            part = new[start : start + self.batch_size]
            found = self._infer([row for _, row in part], hide_audio)
            self._kept.update(zip((key for key, _ in part), found))
        return np.stack([self._kept[key] for key in keys])

    def embeddings(self, table):
        """What the model's last layer, ``classifier``, sees of clips.

        Arguments
        ---------
        table : pandas.DataFrame
            As for :meth:`log_posteriors`.

        Returns
        -------
        numpy.ndarray
            (clips, embedding_size); None if the model has no such layer.
        """
        layer = getattr(self.classifier.mods.model, "classifier", None)
        if layer is None:
            return None
        seen = []
        rows = list(table.itertuples(False))
        with layer.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].float().cpu().numpy())
        ):
            for start in range(0, len(rows), self.batch_size):
                self._infer(rows[start : start + self.batch_size], False)
        return np.concatenate(seen)

    def _key(self, wav, location, record_time):
        """What the answer depends on."""
        if not self.uses_context:
            return (wav,)
        return wav, location_text(location), time_text(record_time)

    @torch.no_grad()
    def _infer(self, rows, hide_audio):
        mods, device = self.classifier.mods, self.classifier.device
        features = [self.cache.load(row.wav) for row in rows]
        frames = torch.tensor([len(clip) for clip in features])
        lengths = (frames / frames.max()).to(device)
        features = pad_sequence(features, batch_first=True).to(device)
        with self.classifier.inference_ctx:
            features = mods.normalize(features, lengths)
            if hide_audio:
                features = torch.zeros_like(features)
            context = self._context(rows, device)
            outputs = mods.model(features, context, lengths)
            log_posteriors = mods.model.log_posteriors(outputs)
        return log_posteriors.double().cpu().numpy()[:, self._order]

    def _context(self, rows, device):
        if not self.uses_context:
            return None
        tokenizer = self.classifier.hparams.tokenizer
        places = [tokenizer.encode_location(row.location) for row in rows]
        times = [tokenizer.encode_time(row.record_time) for row in rows]
        return self.classifier.mods.context_encoder(
            pad_sequence(places, batch_first=True).to(device),
            pad_sequence(times, batch_first=True).to(device),
        )
