"""What a student learns from a teacher that was trained to tag sounds.

Source: L. Beyer et al., "Knowledge distillation: A good teacher is patient and
consistent", 2022: teacher and student see the same augmented input, at length.
Here they hear the same mixtures of clips, which are made once and kept, with
the teacher's answers, since the teacher costs more than the student.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from speechbrain import Stage
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.logger import get_logger
from torch import nn
from torchaudio.transforms import Resample
from tqdm import tqdm

from ascmamba_modules.brain import SceneBrain
from ascmamba_modules.padding import frame_counts
from ascmamba_modules.utils.files import read_json, replacing

logger = get_logger(__name__)

UNLABELLED = -1
_SILENCE = 1e-5  # -100 dB


class Teacher(nn.Module):
    """A frozen tagger that takes waveforms of the student's rate.

    Arguments
    ---------
    encoder : torch.nn.Module
        Maps features to embeddings, and has the method ``tag``, such as
        :class:`~ascmamba_modules.encoders.mobilenet.MobileNet`.
    features, normalize : torch.nn.Module
        What the encoder takes; ``features.sample_rate`` is its rate.
    sample_rate : int
        Rate of the waveforms in Hz.

    Example
    -------
    >>> from ascmamba_modules.encoders.mobilenet import KaldiLogMel, MobileNet
    >>> from ascmamba_modules.features import FixedNormalization
    >>> teacher = Teacher(
    ...     MobileNet(width=0.1, n_tags=5),
    ...     KaldiLogMel(),
    ...     FixedNormalization(128, mean=-4.5, std=5.0),
    ... )
    >>> tags, embedding = teacher(torch.randn(2, 44100))
    >>> tags.shape, embedding.shape
    (torch.Size([2, 5]), torch.Size([2, 96]))
    """

    def __init__(self, encoder, features, normalize, sample_rate=44100):
        super().__init__()
        self.encoder = encoder
        self.features = features
        self.normalize = normalize
        self.sample_rate = sample_rate
        self.resample = nn.Identity()
        if features.sample_rate != sample_rate:
            self.resample = Resample(sample_rate, features.sample_rate)
        self.eval().requires_grad_(False)

    def forward(self, wavs):
        """Answers of the teacher.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (batch, samples).

        Returns
        -------
        tags : torch.Tensor
            Logits (batch, n_tags).
        embedding : torch.Tensor
            (batch, embedding_size).
        """
        with torch.no_grad():
            x = self.normalize(self.features(self.resample(wavs)))
            embedding = self.encoder(x)
            return self.encoder.tag(embedding), embedding

    def train(self, mode=True):
        """Leaves the teacher as it is."""
        return super().train(False)


class Mixer(nn.Module):
    """Mixes the clips of a batch, each a window rolled and cut at random.

    Arguments
    ---------
    samples : int
        Length of the mixtures.
    prob : float
        Share of clips that others of the batch are mixed to.
    snr : tuple
        Range of the ratio of a clip to the others, in dB.
    level : tuple
        Range of the level of the mixtures, in dB under full scale.
    equalizer : float
        Standard deviation of the random gain over frequency, in dB.
    low_pass : float
        Share of mixtures that lose what is over 2.5 to 10 kHz.
    sample_rate : int
        Rate of the waveforms in Hz.

    Example
    -------
    >>> mixer = Mixer(samples=22050)
    >>> mixer(torch.randn(4, 44100)).shape
    torch.Size([4, 22050])
    """

    def __init__(
        self,
        samples,
        prob=0.7,
        snr=(0.0, 20.0),
        level=(-38.0, -12.0),
        equalizer=3.0,
        low_pass=0.15,
        sample_rate=44100,
    ):
        super().__init__()
        self.samples = samples
        self.prob = prob
        self.snr = snr
        self.level = level
        self.equalizer = equalizer
        self.low_pass = low_pass
        self.sample_rate = sample_rate

    def forward(self, wavs, lengths=None):
        """Mixes a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Clips (batch, samples of the longest).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        torch.Tensor
            Mixtures (batch, samples), each led by the clip of its row.
        """
        if lengths is None:
            lengths = torch.ones(len(wavs))
        counts = frame_counts(lengths, wavs.shape[1])
        clips = [wav[:count] for wav, count in zip(wavs, counts)]
        wavs = torch.stack([self._window(clip) for clip in clips])
        others = torch.stack(
            [self._window(clip) for clip in (clips[-1], *clips[:-1])]
        )
        snr = self._uniform(len(wavs), self.snr).to(wavs)
        gain = 10 ** (-snr / 20) * _rms(wavs) / _rms(others)
        gain = gain * (torch.rand_like(gain) < self.prob)
        mixtures = self._equalize(wavs + gain.clamp(max=100.0) * others)
        level = self._uniform(len(wavs), self.level).to(wavs)
        return mixtures * 10 ** (level / 20) / _rms(mixtures)

    def _window(self, wav):
        """A window (samples) of a clip (samples of a clip) in a circle."""
        wav = wav.roll(int(torch.randint(len(wav), ())))
        return wav.repeat(-(-self.samples // len(wav)))[: self.samples]

    def _equalize(self, wavs):
        """Random smooth gains over frequency, without a change of phase."""
        spectrum = torch.fft.rfft(wavs)
        hertz = torch.linspace(0, self.sample_rate / 2, spectrum.shape[1])
        octaves = (hertz.clamp(min=20) / 20).log2()  # 0 to 10
        knots = self.equalizer * torch.randn(len(wavs), 1, 8)
        curve = F.interpolate(knots, 1025, mode="linear", align_corners=True)
        index = (octaves / octaves[-1] * 1024).long()
        decibels = curve[:, 0, index]
        edge = self._uniform(len(wavs), (7.0, 9.0))  # 2.5 to 10 kHz
        slope = 36.0 * (octaves - edge).clamp(min=0)
        cut = torch.rand(len(wavs), 1) < self.low_pass
        gain = 10 ** ((decibels - cut * slope) / 20)
        return torch.fft.irfft(spectrum * gain.to(wavs), n=wavs.shape[1])

    @staticmethod
    def _uniform(count, bounds):
        low, high = bounds
        return low + (high - low) * torch.rand(count, 1)


def _rms(wavs):
    return wavs.square().mean(1, keepdim=True).sqrt() + _SILENCE


def make_mixtures(
    loader, mixer, features, teacher, rounds, folder, description, device="cpu"
):
    """Makes mixtures of clips, with what student and teacher hear in them.

    Mixtures that the folder holds already are left as they are.

    Arguments
    ---------
    loader : torch.utils.data.DataLoader
        Batches with ``sig``, and, if clips have labels,
        ``label``, :data:`UNLABELLED` where there is none.
    mixer : Mixer
        Mixes the clips of a batch.
    features : torch.nn.Module
        The student's features.
    teacher : Teacher
        Answers to the mixtures.
    rounds : int
        How many mixtures are made of each clip.
    folder : str or Path
        Where to write.
    description : dict
        What the mixtures depend on, as plain data.
    device : str or torch.device
        Where to compute.

    Raises
    ------
    ValueError
        If the folder holds mixtures of another description.
    """
    folder = Path(folder)
    finished = folder / "mixtures.json"
    if finished.exists():
        if read_json(finished) != description:
            raise ValueError(
                f"{folder} holds mixtures of other clips, of another teacher "
                "or with other settings: choose another --output_folder."
            )
        logger.info("The mixtures in %s are used again", folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if teacher.sample_rate != teacher.features.sample_rate:
        logger.info(
            "Mixtures of %d Hz are resampled to the teacher's %d Hz",
            *(teacher.sample_rate, teacher.features.sample_rate),
        )
    teacher, features = teacher.to(device), features.to(device)
    count, first, files = rounds * len(loader.dataset), 0, {}
    for number in range(rounds):
        title = f"Mixtures, round {number + 1} of {rounds}"
        for batch in tqdm(loader, title, disable=None):
            wavs = mixer(batch.sig.data.float(), batch.sig.lengths)
            wavs = wavs.to(device)
            values = dict(zip(("tags", "embedding"), teacher(wavs)))
            values["feats"] = features(wavs)
            values["label"] = torch.as_tensor(
                getattr(batch, "label", [UNLABELLED] * len(wavs))
            )
            for name, value in values.items():
                value = value.half() if value.is_floating_point() else value
                value = value.cpu().numpy()
                if name not in files:
                    files[name] = np.lib.format.open_memmap(
                        folder / f"{name}.npy",
                        mode="w+",
                        dtype=value.dtype,
                        shape=(count, *value.shape[1:]),
                    )
                files[name][first : first + len(value)] = value
            first += len(wavs)
    for file in files.values():
        file.flush()
    with replacing(finished) as temporary:
        temporary.write_text(json.dumps(description), "utf-8")


def mixture_dataset(folder):
    """Dataset of the mixtures in a folder.

    Arguments
    ---------
    folder : str or Path
        Where :func:`make_mixtures` has written.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        Items with id, feats (time, n_mels), tags (n_tags), embedding and
        label.
    """
    files = {
        name: np.load(Path(folder, f"{name}.npy"), mmap_mode="r")
        for name in ("feats", "tags", "embedding", "label")
    }

    @takes("row")
    @provides("feats", "tags", "embedding", "label")
    def pipeline(row):
        for name in ("feats", "tags", "embedding"):
            yield torch.from_numpy(files[name][row].astype(np.float32))
        yield int(files["label"][row])

    rows = {f"{row}": {"row": row} for row in range(len(files["label"]))}
    keys = ["id", "feats", "tags", "embedding", "label"]
    return DynamicItemDataset(rows, [pipeline], keys)


class Student(nn.Module):
    """A model that is to learn, with what only its training needs.

    Arguments
    ---------
    model : torch.nn.Module
        Has the methods ``embed``, ``dropout`` and ``classifier``, whose
        classes are the teacher's tags, such as
        :class:`~ascmamba_modules.ascmamba.ASCMamba`.
    teacher_size : int
        Length of the teacher's embedding, whose statistics over the mixtures
        :meth:`measure` takes.
    n_labels : int
        Number of scenes that clips are labelled with, 0 without labels.

    Example
    -------
    >>> from ascmamba_modules.ascmamba import ASCMamba
    >>> student = Student(ASCMamba(5, channels=8, n_blocks=1), teacher_size=96)
    >>> tags, embedding, _ = student(torch.randn(2, 50, 64))
    >>> tags.shape, embedding.shape
    (torch.Size([2, 5]), torch.Size([2, 96]))
    """

    def __init__(self, model, teacher_size, n_labels=0):
        super().__init__()
        self.model = model
        # The teacher's embedding, standardised.
        self.embedding = nn.Linear(model.embedding_size, teacher_size)
        self.label = nn.Linear(model.embedding_size, max(n_labels, 1))
        self.register_buffer("mean", torch.zeros(teacher_size))
        self.register_buffer("std", torch.ones(teacher_size))

    def measure(self, folder):
        """Takes mean and deviation of the embeddings in a folder of mixtures,
        and begins with the tags' mean posteriors.

        Arguments
        ---------
        folder : str or Path
            Where :func:`make_mixtures` has written.
        """
        embeddings = np.load(Path(folder, "embedding.npy"), mmap_mode="r")
        mean = embeddings.mean(0, dtype=np.float64)
        std = embeddings.std(0, dtype=np.float64).clip(min=1e-3)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))
        tags = torch.from_numpy(np.load(Path(folder, "tags.npy")))
        prior = tags.float().sigmoid().mean(0).clamp(1e-5, 1 - 1e-5)
        with torch.no_grad():
            self.model.classifier.bias.copy_(prior.logit())

    def standardize(self, embedding):
        """The teacher's embedding (batch, teacher_size) as it is learned."""
        return (embedding - self.mean) / self.std

    def forward(self, features, lengths=None):
        """Answers to a batch.

        Arguments
        ---------
        features : torch.Tensor
            Normalised features (batch, time, n_mels).
        lengths : torch.Tensor, optional
            Relative lengths of the clips (batch).

        Returns
        -------
        tags : torch.Tensor
            Logits (batch, n_tags).
        embedding : torch.Tensor
            The teacher's, standardised (batch, teacher_size).
        labels : torch.Tensor
            Logits (batch, n_labels).
        """
        x = self.model.embed(features, None, lengths)
        tags = self.model.classifier(self.model.dropout(x))
        return tags, self.embedding(x), self.label(x)


class DistillBrain(SceneBrain):
    """Trains a student on a teacher's answers to mixtures of clips.

    Modules: normalize and student.  Needs in hparams, beside those of
    :class:`~ascmamba_modules.brain.SceneBrain` but for augmentation and mixup:
    tag_weight, embedding_weight and label_weight, the weights of the losses.

    The best checkpoint is the one that explains the most of the variance of
    the teacher's embedding, over mixtures of the validation clips.
    """

    SCORE = "explained_variance"

    def compute_forward(self, batch, stage):
        """Runs from kept features to the student's answers."""
        batch = batch.to(self.device)
        features = self.modules.normalize(
            batch.feats.data, epoch=self.hparams.epoch_counter.current
        )
        if stage == Stage.TRAIN:  # mixtures are circles, cut open
            shift = int(torch.randint(features.shape[1], ()))
            features = features.roll(shift, dims=1)
        return self.modules.student(features)

    def compute_objectives(self, predictions, batch, stage):
        """Distances to the teacher's posteriors and embedding, and to labels
        where there are any."""
        tags, embedding, labels = predictions
        goal = self.hparams.student.standardize(batch.embedding.data)
        distance = F.mse_loss(embedding.float(), goal)
        if stage != Stage.TRAIN:
            self.distances.append((distance.item(), len(goal)))
            return distance
        posteriors = batch.tags.data.sigmoid()
        loss = self.hparams.embedding_weight * distance
        loss = loss + self.hparams.tag_weight * (
            F.binary_cross_entropy_with_logits(tags.float(), posteriors)
        )
        target = torch.as_tensor(batch.label, device=labels.device)
        if (target != UNLABELLED).any():
            loss = loss + self.hparams.label_weight * F.cross_entropy(
                labels.float(), target, ignore_index=UNLABELLED
            )
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Forgets the distances of the stage before."""
        self.distances = []

    def _scores(self):
        total = sum(count for _, count in self.distances)
        loss = sum(value * count for value, count in self.distances) / total
        return {"loss": loss, self.SCORE: 1.0 - loss}

    def _fit_temperature(self):
        return None  # its outputs are no posteriors of classes
