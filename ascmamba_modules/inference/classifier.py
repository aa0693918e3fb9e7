"""Classifying recordings with a trained model."""

from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.autocast import AMPConfig, TorchAutocast
from speechbrain.utils.fetching import (
    FetchFrom,
    FetchSource,
    LocalStrategy,
    fetch,
)
from speechbrain.utils.logger import get_logger
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ascmamba_modules.data.audio_files import inspect_audio, load_audio
from ascmamba_modules.data.place_and_time import is_future, later
from ascmamba_modules.data.sample_check import BEYOND_ANY_SCALE, INTEGER_SCALE
from ascmamba_modules.inference.file_batches import (
    ClassifiedFile,
    batches_of_files,
    clips_together,
    file_problems,
    naming_file,
    raise_problems,
)
from ascmamba_modules.inference.reliance import UNKNOWN, load_reliance
from ascmamba_modules.inference.streaming import cut_windows, stream_audio
from ascmamba_modules.inference.timeline import Timeline
from ascmamba_modules.mamba import Mamba
from ascmamba_modules.model_folder.config import SHIPPED_MODELS, find_model
from ascmamba_modules.model_folder.safe_loading import check_description
from ascmamba_modules.pipeline import (
    class_names,
    compute_features,
    model_inputs,
)
from ascmamba_modules.selective_scan import choose_engine
from ascmamba_modules.utils.remote import fetched_once

logger = get_logger(__name__)

DEFAULT_MODEL = "ambience"
_CLIP_LENGTH = 10.0  # seconds
_FETCH_OPTIONS = ("savedir", "local_strategy", "fetch_config")
_NOT_FINITE = (
    "the model's output is NaN; samples must be finite and between about -1 "
    "and 1"
)


class SceneClassifier(Pretrained):
    """Classifies recordings, with or without their place and time.

    Several threads may use one classifier at the same time.  Its attributes
    ``device`` and ``precision`` are those of the run options ("cpu",
    "cuda:1"; "fp32", "bf16", "fp16"); ``engine`` is the engine of the
    selective scan, None for models without one.  All three are logged.

    Load the folder of a training with :meth:`from_hparams`, or build one from
    parts:

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
    >>> features = classifier.mods.features(torch.randn(3, 44100))
    >>> classifier.posteriors_from_features(features).shape
    torch.Size([3, 2])
    """

    MODULES_NEEDED = ["features", "normalize", "model"]
    HPARAMS_NEEDED = ["modules", "label_encoder", "audio_normalizer"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # The weights were loaded strictly, so that the classes must fit.
        self.hparams.label_encoder.ignore_len()
        self.source = None  # its local folder
        self.engine = self._engine()
        self._future_warned = False
        logger.info(
            "Classifying on %s in %s, selective scan: %s",
            *(self.device, self.precision, self.engine or "none"),
        )

    @cached_property
    def reliance(self):
        """What tells unknown sounds and possible classes, see
        :class:`~ascmamba_modules.inference.reliance.Reliance`; a ``ValueError``
        for a model that was calibrated on no clips or is in no local folder."""
        if self.source is None:
            raise ValueError(
                "only a model in a local folder tells unknown sounds and "
                "possible classes"
            )
        return load_reliance(self.source)

    @property
    def classes(self):
        """Names of the classes, in the order of the posteriors (list)."""
        return class_names(self.hparams.label_encoder)

    @classmethod
    def from_hparams(
        cls,
        source=None,
        hparams_file="hyperparams.yaml",
        trusted=True,
        **kwargs,
    ):
        """Loads a model from disk or from the Hugging Face hub.

        A trusted folder can run any code, because its ``hyperparams.yaml``
        can name any: pass ``trusted=False`` for folders of unknown origin.

        Arguments
        ---------
        source : str or Path, optional
            A local folder, read in place and without network: the output
            folder of a finished training stage or the folder ``model/`` in
            it.  Or the name "owner/model" of a model on the hub.  Or a model
            of the package: "ambience", which is also what None is, or
            "sound_tags".
        hparams_file : str
            Name of the settings file.
        trusted : bool
            Whether the folder may run code.  If False nothing but plain
            settings and known models is let through, see
            :func:`ascmamba_modules.model_folder.safe_loading.check_description`.
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
            If a file of the folder is damaged or does not fit, or if it needs
            trust and has none.
        """
        is_default = source is None
        source = DEFAULT_MODEL if is_default else source
        try:
            classifier = cls._load(source, hparams_file, trusted, **kwargs)
        except (FileNotFoundError, ValueError):
            raise
        except Exception as error:  # of whatever hyperparams.yaml builds
            text = " ".join(str(error).split())
            raise ValueError(
                f"{source} cannot be loaded: {type(error).__name__}: {text}"
            ) from error
        if is_default:
            logger.info(
                "No model was named: '%s', which tells %s",
                *(DEFAULT_MODEL, ", ".join(classifier.classes)),
            )
        return classifier

    @classmethod
    def _load(cls, source, hparams_file, trusted, **kwargs):
        if isinstance(source, (str, Path)):
            source = _local_or_hub(str(source))
        folder = None
        if isinstance(source, FetchSource):
            folder = source.path
            # The files are used where they are; nothing is cached.
            kwargs = {"local_strategy": LocalStrategy.NO_LINK, **kwargs}
        if not trusted:
            fetching = {k: kwargs[k] for k in _FETCH_OPTIONS if k in kwargs}
            check_description(fetch(hparams_file, source, **fetching))
        classifier = super().from_hparams(source, hparams_file, **kwargs)
        classifier.source = folder
        return classifier

    @fetched_once()
    def classify_file(self, path, location=None, record_time=None):
        """Classifies one audio file as a whole.

        Memory grows with its length; :meth:`classify_long` classifies
        windows of it.

        Arguments
        ---------
        path : str or Path
            File of any length, rate and channel count, or its URL.
        location : str, optional
            Place of the recording; None if it is unknown.  Places that were
            not in training are allowed.
        record_time : str, datetime.date or datetime.datetime, optional
            Time of the recording, as text in ISO 8601
            ("2023-04-21 18:30:00", "2023-04-21"); None if it is unknown.
            Month, day of the week and hour are used.

        Returns
        -------
        tuple
            As :meth:`classify_batch`, for a batch of one.

        Raises
        ------
        ValueError
            If the file cannot be used, with the reason.
        """
        header = inspect_audio(path, decode=False)
        if header.problem:
            raise ValueError(f"{path}: {header.problem}")
        with naming_file(path):
            waveform = load_audio(path, self.audio_normalizer)
            return self.classify_batch(waveform, None, location, record_time)

    def classify_files(
        self,
        paths,
        location=None,
        record_time=None,
        batch_size=16,
        skip_errors=False,
        progress_bar=True,
        unknown=False,
        coverage=None,
    ):
        """Classifies many audio files, each as a whole.

        Threads read files ahead of the model, at most two batches.  Long
        files of a batch go through the model one at a time.

        Arguments
        ---------
        paths : iterable
            Files of up to five minutes, of any rate and channel count; use
            :meth:`classify_long` for longer ones.
        location, record_time : optional
            Place and time as in :meth:`classify_file`: one for all files, or
            a list with one a file, None where unknown.
        batch_size : int
            Clips in a batch.
        skip_errors : bool
            Whether to report files that cannot be used in their results, and
            go on.  If False, all files are checked before the first is
            classified.
        progress_bar : bool
            Whether to show one if the output is a terminal.
        unknown : bool
            Whether clips unlike those of all classes get the label "unknown".
        coverage : float, optional
            Also gives the possible classes: the fewest that hold the true one
            for this share of the clips.

        Returns
        -------
        iterator
            A :class:`ClassifiedFile` for each path, in order.

        Raises
        ------
        ValueError
            If files cannot be used and ``skip_errors`` is False, with the
            problems of the first 20; or if the model was calibrated on too
            few clips for ``unknown`` or ``coverage``.

        Example
        -------
        >>> paths = ["a.wav", "b.wav"]
        >>> for file in classifier.classify_files(paths):  # doctest: +SKIP
        ...     print(file.path, file.text_lab, file.score)
        """
        paths = [str(path) for path in paths]
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        places = _one_a_clip("location", location, len(paths))
        times = _one_a_clip("record_time", record_time, len(paths))
        if unknown or coverage is not None:
            unsure = torch.zeros(1, len(self.classes)).log_softmax(1)
            share = 0.5 if coverage is None else coverage
            self.reliance.possible(unsure, share)
        if not skip_errors:
            rate = self.audio_normalizer.sample_rate
            raise_problems(paths, file_problems(zip(paths, times), rate))
        return self._classify_files(
            zip(paths, places, times),
            batch_size,
            skip_errors,
            (unknown, coverage),
            tqdm(
                desc="Classifying",
                total=len(paths),
                unit="file",
                disable=None if progress_bar else True,
            ),
        )

    def _classify_files(self, files, batch_size, skip_errors, asked, bar):
        with bar:
            for batch in batches_of_files(
                files, self.audio_normalizer, batch_size
            ):
                for result in self._classify_clips(batch, batch_size, *asked):
                    if result.problem and not skip_errors:
                        raise_problems([result.path], [result.problem])
                    yield result
                    bar.update()

    def _classify_clips(self, clips, batch_size, unknown, coverage):
        """Results of clips, in order."""
        results = [ClassifiedFile(c.path, problem=c.problem) for c in clips]
        limit = batch_size * _CLIP_LENGTH * self.audio_normalizer.sample_rate
        for part in clips_together(clips, limit):
            waveforms = [clips[i].waveform for i in part]
            longest = max(map(len, waveforms))
            inputs = (
                pad_sequence(waveforms, batch_first=True),
                torch.tensor([len(wav) / longest for wav in waveforms]),
                [clips[i].location for i in part],
                [clips[i].record_time for i in part],
            )
            out_prob = self._log_posteriors(*inputs).cpu()
            for i, posteriors in zip(part, out_prob):
                results[i] = self._result(clips[i].path, posteriors)
            if coverage is not None:
                marks = self.reliance.possible(out_prob, coverage)
                for i, row in zip(part, marks):
                    names = [n for n, mark in zip(self.classes, row) if mark]
                    results[i] = results[i]._replace(possible=names)
            if unknown:
                known = self.reliance.knows(self.embed_batch(*inputs))
                for i, is_known in zip(part, known):
                    if not is_known and not results[i].problem:
                        results[i] = results[i]._replace(text_lab=UNKNOWN)
        return results

    def _result(self, path, posteriors):
        if posteriors.isnan().any():
            return ClassifiedFile(path, problem=_NOT_FINITE)
        score, index = posteriors.max(dim=-1)
        return ClassifiedFile(
            path, posteriors, score.item(), index.item(), self.classes[index]
        )

    @fetched_once()
    def classify_long(
        self,
        path,
        window=_CLIP_LENGTH,
        hop=None,
        location=None,
        record_time=None,
        batch_size=16,
        progress_bar=True,
    ):
        """Classifies a recording of any length in windows.

        It is read, resampled and cut block by block, so that only the
        posteriors, 0.1 MB an hour, take more memory the longer it is.  A
        window's posteriors are those of :meth:`classify_batch` for that part
        of the recording.

        Arguments
        ---------
        path : str or Path
            Audio file of any rate and channel count, or its URL.
        window : float
            Length of a window in seconds, ideally that of the clips in
            training.  The last window ends with the recording; a shorter
            recording is one window.
        hop : float, optional
            Seconds from the start of one window to the start of the next, at
            most the window's length; None is half of it.
        location : str, optional
            Place as in :meth:`classify_file`.
        record_time : str, datetime.date or datetime.datetime, optional
            Time at which the recording starts, as in :meth:`classify_file`;
            each window is classified with the time of its own start.
        batch_size : int
            Windows in a batch.
        progress_bar : bool
            Whether to show one if the output is a terminal.

        Returns
        -------
        ascmamba_modules.inference.timeline.Timeline
            Posteriors of all windows, segments, and a plot.

        Raises
        ------
        ValueError
            If the file, window or hop cannot be used, with the reason.
        """
        header = inspect_audio(path, decode=False)
        if header.problem:
            raise ValueError(f"{path}: {header.problem}")
        batches = self.classify_stream(
            stream_audio(path, self.audio_normalizer),
            *(window, hop, location, record_time, batch_size),
        )
        bar = tqdm(
            desc="Classifying",
            total=round(header.duration),
            unit="s",
            disable=None if progress_bar else True,
        )
        parts = []
        with bar, naming_file(path):
            for part in batches:
                parts.append(part)
                bar.update(round(part[1][-1]) - bar.n)
        starts, ends, posteriors = zip(*parts)
        return Timeline(
            *(np.concatenate(starts), np.concatenate(ends)),
            *(torch.cat(posteriors), self.classes),
        )

    def classify_stream(
        self,
        blocks,
        window=_CLIP_LENGTH,
        hop=None,
        location=None,
        record_time=None,
        batch_size=1,
    ):
        """Classifies audio in windows, while it comes in.

        Arguments
        ---------
        blocks : iterable
            Consecutive waveforms (samples) at the model's sample rate, as
            from :func:`ascmamba_modules.data.resampling.resample_stream`.
        window, hop, location, record_time
            As in :meth:`classify_long`.
        batch_size : int
            Windows in a batch; 1 gives each as soon as it is over.

        Returns
        -------
        iterator
            For each batch: starts and ends in seconds, two lists, and
            posteriors (windows, classes), on the CPU.

        Raises
        ------
        ValueError
            If window, hop or samples cannot be used, with the reason.
        """
        hop = window / 2 if hop is None else hop
        rate = self.audio_normalizer.sample_rate
        if not 1 / rate <= hop <= window < float("inf"):
            raise ValueError(
                f"hop ({hop} s) must be more than 0 and at most window "
                f"({window} s)."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        windows = cut_windows(blocks, round(window * rate), round(hop * rate))
        return self._classify_windows(
            windows, location, record_time, batch_size
        )

    def _classify_windows(self, windows, location, record_time, batch_size):
        rate = self.audio_normalizer.sample_rate
        while batch := list(islice(windows, batch_size)):
            starts = [start / rate for start, _ in batch]
            out_prob = self._log_posteriors(
                torch.stack([waveform for _, waveform in batch]),
                None,
                location,
                [later(record_time, seconds) for seconds in starts],
            )
            if out_prob.isnan().any():
                raise ValueError(_NOT_FINITE)
            ends = [(start + len(wav)) / rate for start, wav in batch]
            yield starts, ends, out_prob.exp().cpu()

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

        Raises
        ------
        ValueError
            For shapes, lengths, times or samples that cannot be used.
        """
        out_prob = self._log_posteriors(wavs, wav_lens, location, record_time)
        bad = out_prob.isnan().any(dim=-1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"clips {bad} of the batch: {_NOT_FINITE}")
        score, index = out_prob.max(dim=-1)
        text_lab = self.hparams.label_encoder.decode_torch(index)
        return out_prob, score, index, text_lab

    def embed_batch(self, wavs, wav_lens=None, location=None, record_time=None):
        """Turns waveforms into the vectors that the model's classifier sees.

        Arguments are those of :meth:`classify_batch`.

        Returns
        -------
        torch.Tensor
            Embeddings (batch, embedding_size).

        Raises
        ------
        ValueError
            As :meth:`classify_batch`, or if the model has no embeddings.
        """
        features, lengths = self._features(wavs, wav_lens)
        return self.embed_features(features, lengths, location, record_time)

    def forward(self, wavs, wav_lens=None, location=None, record_time=None):
        """Same as :meth:`classify_batch`."""
        return self.classify_batch(wavs, wav_lens, location, record_time)

    def posteriors_from_features(
        self,
        features,
        lengths=None,
        location=None,
        record_time=None,
        hide_audio=False,
    ):
        """Classifies clips by their features.

        Arguments
        ---------
        features : torch.Tensor
            What the module ``features`` computes (batch, time, n_mels), not
            normalised.
        lengths : torch.Tensor, optional
            Relative lengths (batch), 1 for the longest.
        location, record_time : optional
            As in :meth:`classify_batch`.
        hide_audio : bool
            Whether to replace the clips, after normalisation, by zeros: each
            frame is then the mean of the training set, and only place, time
            and length are left to the model.

        Returns
        -------
        torch.Tensor
            Log-posteriors (batch, classes); NaN for features that are not
            finite.

        """
        with torch.no_grad(), self._autocast():
            features, *others = self._inputs(
                features, lengths, location, record_time
            )
            if hide_audio:
                features = torch.zeros_like(features)
            outputs = self.mods.model(features, *others)
            return self.mods.model.log_posteriors(outputs)

    def embed_features(
        self, features, lengths=None, location=None, record_time=None
    ):
        """Turns features into the vectors that the model's classifier sees.

        Arguments are those of :meth:`posteriors_from_features`.

        Returns
        -------
        torch.Tensor
            Embeddings (batch, embedding_size).

        Raises
        ------
        ValueError
            If the model has no embeddings.
        """
        if not hasattr(self.mods.model, "embed"):
            name = type(self.mods.model).__name__
            raise ValueError(f"{name} has no method embed, so no embeddings.")
        with torch.no_grad(), self._autocast():
            inputs = self._inputs(features, lengths, location, record_time)
            return self.mods.model.embed(*inputs).float()

    def context(self, location=None, record_time=None):
        """Encodes places and times.

        Arguments
        ---------
        location, record_time : optional
            As in :meth:`classify_file`, or lists of them.

        Returns
        -------
        torch.Tensor or None
            Context vectors (batch, context_size); None for models that do
            not use place and time.

        Raises
        ------
        ValueError
            For a text that is not a time, or lists of different lengths.
        """
        batch = max(
            len(value) if _is_list(value) else 1
            for value in (location, record_time)
        )
        tokens = self._tokens(batch, location, record_time)
        if tokens is None:
            return None
        with torch.no_grad(), self._autocast():
            return self.mods.context_encoder(*tokens)

    def _log_posteriors(self, wavs, wav_lens, location, record_time):
        features, lengths = self._features(wavs, wav_lens)
        return self.posteriors_from_features(
            features, lengths, location, record_time
        )

    def _features(self, wavs, wav_lens):
        wavs = torch.atleast_2d(torch.as_tensor(wavs))
        if not wavs.is_floating_point():
            raise ValueError(
                f"Waveforms must be floats between -1 and 1, got {wavs.dtype}; "
                "divide by full scale first (32768 for 16 bits)."
            )
        wavs = wavs.to(self.device, torch.float32)
        if wavs.dim() != 2 or wavs.numel() == 0:
            raise ValueError(
                f"classify_batch takes (batch, samples), got {wavs.shape}."
            )
        wav_lens = self._check_lengths(wav_lens, len(wavs))
        peak = wavs.abs().max().item()
        if INTEGER_SCALE < peak <= BEYOND_ANY_SCALE:  # others become NaN
            raise ValueError(
                f"Samples reach {peak:.0f}, full scale is 1; divide by full "
                "scale first (32768 for 16 bits)."
            )
        with torch.no_grad(), self._autocast():
            return compute_features(self.mods, wavs, wav_lens)

    def _inputs(self, features, lengths, location, record_time):
        """What the model takes: features, context, lengths."""
        features = features.to(self.device)
        if lengths is not None:
            lengths = lengths.to(self.device)
        tokens = self._tokens(len(features), location, record_time)
        return model_inputs(self.mods, features, lengths, tokens)

    def _autocast(self):
        # SpeechBrain's own is one object, in which threads would take each
        # other's state for the one to go back to.
        return TorchAutocast(
            device_type=self.device_type,
            dtype=AMPConfig.from_name(self.precision).dtype,
        )

    def _engine(self):
        """The selective scan's engine; None for models without a scan."""
        for module in self.mods.model.modules():
            if isinstance(module, Mamba):
                return choose_engine(
                    module.engine, module.in_proj.weight, module.A_log
                )
        return None

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

    def _tokens(self, batch, location, record_time):
        # Checked for models that take no place and time, too.
        places = _one_a_clip("location", location, batch)
        times = _one_a_clip("record_time", record_time, batch)
        future = [moment for moment in times if is_future(moment)]
        if future and not self._future_warned:
            self._future_warned = True
            logger.warning(
                "record_time %s lies in the future; its month, day of the "
                "week and hour are used as they are",
                future[0],
            )
        if "context_encoder" not in self.mods:
            return None
        tokens = self.hparams.tokenizer.encode_batch(places, times)
        return [part.to(self.device) for part in tokens]


def _is_list(value):
    return hasattr(value, "__len__") and not isinstance(value, str)


def _one_a_clip(name, value, batch):
    if not _is_list(value):
        return [value] * batch
    if len(value) != batch:
        raise ValueError(
            f"{name} has {len(value)} entries for {batch} clips; give one a "
            "clip, None where it is unknown."
        )
    return list(value)


def _local_or_hub(source):
    if Path(source).is_dir() or source in SHIPPED_MODELS:
        return FetchSource(FetchFrom.LOCAL, str(find_model(source)))
    owner, slash, name = source.partition("/")
    is_hub_name = slash and name and "/" not in name and owner[:1] not in ".~"
    # A mistyped name in a folder that exists is not looked up on the hub.
    if not is_hub_name or Path(owner).exists():
        raise FileNotFoundError(
            f"No such folder: {source}. Name the output folder of a finished "
            "training stage, the folder model/ in it, or the model "
            "'owner/name' on the Hugging Face hub, or one of the package: "
            f"{', '.join(SHIPPED_MODELS)}."
        )
    return source
