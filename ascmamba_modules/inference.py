"""Classifying recordings with a trained model."""

from datetime import datetime
from pathlib import Path

import torch
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import (
    FetchFrom,
    FetchSource,
    LocalStrategy,
    fetch,
)

from ascmamba_modules.audio_files import audio_problem, load_audio
from ascmamba_modules.model_settings import SETTINGS, read_settings
from ascmamba_modules.plain_loading import load_plain

_FETCH_OPTIONS = ("savedir", "local_strategy", "fetch_config")


class SceneClassifier(Pretrained):
    """Tells the scene of a recording, with or without its place and time.

    Made by :meth:`from_hparams` from the folder that a training leaves, or
    from parts:

    Example
    -------
    >>> from speechbrain.dataio.encoder import CategoricalEncoder
    >>> from speechbrain.dataio.preprocess import AudioNormalizer
    >>> from ascmamba_modules.ascmamba import ASCMamba
    >>> from ascmamba_modules.features import LogMel
    >>> from speechbrain.processing.features import InputNormalization
    >>> label_encoder = CategoricalEncoder()
    >>> label_encoder.update_from_iterable(["Bus", "Bar"])
    >>> modules = {
    ...     "features": LogMel(),
    ...     "normalize": InputNormalization(norm_type="sentence"),
    ...     "model": ASCMamba(n_classes=2, channels=4, n_blocks=1),
    ... }
    >>> classifier = SceneClassifier(
    ...     modules,
    ...     hparams={
    ...         "modules": modules,
    ...         "label_encoder": label_encoder,
    ...         "audio_normalizer": AudioNormalizer(44100),
    ...     },
    ...     run_opts={"device": "cpu"},
    ... )
    >>> out_prob, score, index, text_lab = classifier.classify_batch(
    ...     torch.randn(3, 44100)
    ... )
    >>> out_prob.shape, len(text_lab)
    (torch.Size([3, 2]), 3)
    """

    MODULES_NEEDED = ["features", "normalize", "model"]
    HPARAMS_NEEDED = ["modules", "label_encoder", "audio_normalizer"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # The weights were loaded strictly, so that the classes must fit.
        self.hparams.label_encoder.ignore_len()

    @classmethod
    def from_hparams(
        cls, source, hparams_file="hyperparams.yaml", trusted=True, **kwargs
    ):
        """Loads a model folder, from disk or from the Hugging Face hub.

        Loading a trusted folder builds what ``hyperparams.yaml`` in it names,
        which can be any code: give ``trusted=False`` for all others.

        Arguments
        ---------
        source : str or Path
            A local folder (``model/`` of a finished training stage), read in
            place and without network, or the name "owner/model" of a model
            on the hub.
        hparams_file : str
            Name of the settings file; of trusted folders.
        trusted : bool
            Whether the folder may run code.  If False only plain settings
            and weights are read, and nothing but this package's models can
            be built, see :func:`ascmamba_modules.plain_loading.load_plain`.
        **kwargs
            Passed to ``Pretrained.from_hparams``, e.g.
            ``run_opts={"device": "cuda"}``.

        Returns
        -------
        SceneClassifier
            Ready for inference.

        Raises
        ------
        FileNotFoundError
            If ``source`` is neither a model folder nor a hub name, or a file
            of the folder is missing.
        ValueError
            If the folder is of another version of the format, if a file of
            it is damaged or does not fit, or if it needs trust and has none.
        """
        if isinstance(source, (str, Path)):
            source = _local_or_hub(str(source))
        if isinstance(source, FetchSource):
            # The files are used where they are; nothing is cached.
            kwargs = {"local_strategy": LocalStrategy.NO_LINK, **kwargs}
        fetching = {k: kwargs[k] for k in _FETCH_OPTIONS if k in kwargs}
        if trusted:
            path = fetch(SETTINGS, source, **fetching)
            read_settings(path.parent)  # which checks the version
            return super().from_hparams(source, hparams_file, **kwargs)
        parts = load_plain(source, **fetching)
        for name in fetching:
            del kwargs[name]
        return cls(parts["modules"], parts, **kwargs)

    def classify_file(self, path, location=None, record_time=None):
        """Classifies one audio file.

        Arguments
        ---------
        path : str or Path
            File of any length, rate and channel count.
        location : str, optional
            Place of the recording; None if it is unknown.
        record_time : str or datetime.datetime, optional
            Time of the recording, as text in ISO 8601
            ("2023-04-21 18:30:00"); None if it is unknown.

        Returns
        -------
        tuple
            As :meth:`classify_batch`, for a batch of one.

        Raises
        ------
        ValueError
            If the file cannot be used, with the reason.
        """
        problem = audio_problem(path)
        if problem:
            raise ValueError(f"{path}: {problem}")
        waveform = load_audio(path, self.audio_normalizer)
        return self.classify_batch(
            waveform.unsqueeze(0), None, location, record_time
        )

    def classify_batch(
        self, wavs, wav_lens=None, location=None, record_time=None
    ):
        """Classifies a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (batch, samples) at the model's sample rate, padded
            with zeros, or one waveform (samples).
        wav_lens : torch.Tensor, optional
            Relative lengths (batch), 1 for the longest.
        location, record_time : optional
            Place and time as in :meth:`classify_file`: one for the whole
            batch, or a list with one a clip, None where unknown.

        Returns
        -------
        out_prob : torch.Tensor
            Log-posteriors (batch, classes), as in SpeechBrain's classifiers.
        score : torch.Tensor
            Log-posterior of the best class (batch).
        index : torch.Tensor
            Index of the best class (batch).
        text_lab : list
            Name of the best class (batch).
        """
        wavs = torch.atleast_2d(torch.as_tensor(wavs))
        wavs = wavs.to(self.device, torch.float32)
        if wavs.dim() != 2 or wavs.numel() == 0:
            raise ValueError(
                f"classify_batch takes (batch, samples), got {wavs.shape}."
            )
        wav_lens = self._check_lengths(wav_lens, len(wavs))
        with torch.no_grad(), self.inference_ctx:
            features = self.mods.features(wavs, wav_lens)
            lengths = self.mods.features.frame_lengths(wavs, wav_lens)
            features = self.mods.normalize(features, lengths)
            context = self._context(len(wavs), location, record_time)
            outputs = self.mods.model(features, context, lengths)
            out_prob = self.mods.model.log_posteriors(outputs)
        score, index = out_prob.max(dim=-1)
        text_lab = self.hparams.label_encoder.decode_torch(index)
        return out_prob, score, index, text_lab

    def forward(self, wavs, wav_lens=None, location=None, record_time=None):
        """Same as :meth:`classify_batch`."""
        return self.classify_batch(wavs, wav_lens, location, record_time)

    def _check_lengths(self, wav_lens, batch):
        if wav_lens is None:
            return None
        wav_lens = torch.as_tensor(wav_lens).to(self.device, torch.float32)
        fits = wav_lens.shape == (batch,)
        if not fits or not ((wav_lens > 0) & (wav_lens <= 1)).all():
            raise ValueError(
                f"wav_lens must be {batch} relative lengths over 0 and up to "
                f"1, got {wav_lens.tolist()}."
            )
        return wav_lens

    def _context(self, batch, location, record_time):
        if "context_encoder" not in self.mods:
            return None
        tokenizer = self.hparams.tokenizer
        tokens = [
            _pad([encode(value) for value in _one_a_clip(name, given, batch)])
            for name, given, encode in (
                ("location", location, tokenizer.encode_location),
                ("record_time", record_time, tokenizer.encode_time),
            )
        ]
        return self.mods.context_encoder(*(t.to(self.device) for t in tokens))


def _one_a_clip(name, given, batch):
    if given is None or isinstance(given, (str, datetime)):
        return [given] * batch
    if len(given) != batch:
        raise ValueError(
            f"{name} has {len(given)} entries for {batch} clips; give one a "
            "clip, None where it is unknown."
        )
    return given


def _pad(tokens):
    return torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)


def _local_or_hub(source):
    if Path(source).is_dir():
        return FetchSource(FetchFrom.LOCAL, source)
    owner, slash, name = source.partition("/")
    is_hub_name = slash and name and "/" not in name and owner[:1] not in ".~"
    # A mistyped name in a folder that exists is not looked up on the hub.
    if not is_hub_name or Path(owner).exists():
        raise FileNotFoundError(
            f"No such folder: {source}. source must be a local model folder "
            "or the name 'owner/model' of a model on the hub."
        )
    return source
