"""Place and time of a recording as a context vector.

Source: ASCMamba paper, section 3.1.2, which feeds text embeddings of place
and time to the conditional norms and leaves the embedding open.  Here place
and time become two short texts, SentencePiece cuts them, and a small network
turns the pieces into a vector.
"""

import io
import re
import unicodedata
from datetime import datetime
from pathlib import Path

import pandas as pd
import sentencepiece
import torch
import torch.nn.functional as F
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch import nn

PADDING = 0
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# Every time text is made of these, and a place may be made of any of these
# letters, whatever the training set happens to contain.
_ALPHABET = ("abcdefghijklmnopqrstuvwxyz", "0123456789", "-'., ")


def location_text(location):
    """Writes a place as text.

    Arguments
    ---------
    location : str or None
        Name of the place; None or an empty text if it is unknown.

    Returns
    -------
    str
        The name in a normal form, empty if unknown.

    Example
    -------
    >>> location_text(" Xi’an "), location_text(None)
    ("xi'an", '')
    """
    if pd.isna(location):
        return ""
    text = unicodedata.normalize("NFKC", str(location)).replace("’", "'")
    # Folding case can leave marks that are to be joined again.
    text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.split())


def time_text(record_time):
    """Writes a point in time as text: month, day of the week, hour.

    Year, day of the month and minute are left out: they tell recording
    sessions apart, which a model must not learn by heart.

    Arguments
    ---------
    record_time : str, datetime.datetime or None
        ISO 8601 text such as "2023-04-21 18:30:00" or "2023-04-21T18:30+08:00"
        (its own hour counts, wherever it is read), a date alone, or None or an
        empty text if the time is unknown.

    Returns
    -------
    str
        The text, empty if unknown; without an hour for a date alone.

    Raises
    ------
    ValueError
        For a text that is not a time.

    Example
    -------
    >>> time_text("2023-04-21 18:30:00")
    'april friday 18'
    >>> time_text("2023-04-21"), time_text("")
    ('april friday', '')
    """
    if pd.isna(record_time):
        return ""
    if not isinstance(record_time, datetime):
        record_time = str(record_time).strip()
        if record_time == "":
            return ""
    try:
        if isinstance(record_time, str) and not _DATE.match(record_time):
            raise ValueError  # pandas would take "now", and make days up
        moment = pd.to_datetime(record_time, format="ISO8601")
    except ValueError:
        raise ValueError(
            f"'{record_time}' is not a time; write it like "
            "2023-04-21 18:30:00, or leave it empty if it is unknown."
        )
    text = f"{moment.month_name()} {moment.day_name()}".lower()
    if isinstance(record_time, str) and _DATE.fullmatch(record_time):
        return text
    return f"{text} {moment.hour:02d}"


def later(record_time, seconds):
    """The time when a recording has run for a while.

    Arguments
    ---------
    record_time : str, datetime.datetime or None
        When it began, see :func:`time_text`.
    seconds : float
        How long it has run.

    Returns
    -------
    datetime.datetime, str or None
        The later time; a date alone and an unknown time stay as they are.

    Raises
    ------
    ValueError
        For a text that is not a time.

    Example
    -------
    >>> str(later("2023-04-21 18:30:00", 5400))
    '2023-04-21 20:00:00'
    >>> later("2023-04-21", 5400)
    '2023-04-21'
    """
    # The hour is the last of three words.
    if len(time_text(record_time).split()) < 3:
        return record_time
    if not isinstance(record_time, datetime):
        record_time = str(record_time).strip()
    moment = pd.to_datetime(record_time, format="ISO8601")
    return moment + pd.Timedelta(seconds=seconds)


def is_future(record_time):
    """Whether a recording would have been made in the future.

    Arguments
    ---------
    record_time : str, datetime.datetime or None
        See :func:`time_text`.

    Returns
    -------
    bool
        False for an unknown time, and for the next day, which may have begun
        elsewhere.

    Example
    -------
    >>> is_future("2523-04-21"), is_future("2023-04-21"), is_future(None)
    (True, False, False)
    """
    if not time_text(record_time):
        return False
    if not isinstance(record_time, datetime):
        record_time = str(record_time).strip()
    moment = pd.to_datetime(record_time, format="ISO8601")
    return moment > pd.Timestamp.now(moment.tz) + pd.Timedelta(days=1)


@register_checkpoint_hooks
class ContextTokenizer:
    """Cuts the texts of place and time into SentencePiece tokens.

    Trained once on the metadata of the training set, and saved with the
    model.  Token 0 is padding; a text that is unknown is one padding token.

    Arguments
    ---------
    vocab_size : int
        Upper limit of the vocabulary.

    Example
    -------
    >>> tokenizer = ContextTokenizer()
    >>> tokenizer.train(["Xi'an", "Luoyang"])
    >>> tokenizer.encode_location("Xi'an").shape
    torch.Size([6])
    >>> tokenizer.encode_time(None)
    tensor([0])
    """

    def __init__(self, vocab_size=256):
        self.vocab_size = vocab_size
        self._processor = None

    def train(self, locations):
        """Learns the pieces.

        Arguments
        ---------
        locations : iterable
            Places of the training set, unknown ones included.
        """
        texts = {location_text(location) for location in locations} - {""}
        weekdays = pd.date_range("2023-01-02", periods=7)
        months = pd.date_range("2023-01-01", periods=12, freq="MS")
        texts.update(time_text(moment) for moment in [*weekdays, *months])
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*_ALPHABET, *sorted(texts)]),
            model_writer=model,
            vocab_size=self.vocab_size,
            # Larger pieces need more text than a few cities and 24 hours.
            model_type="char",
            character_coverage=1.0,
            pad_id=PADDING,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
        self._processor = sentencepiece.SentencePieceProcessor(
            model_proto=model.getvalue()
        )

    def encode_location(self, location):
        """Tokens (n) of a place, see :func:`location_text`."""
        return self._encode(location_text(location))

    def encode_time(self, record_time):
        """Tokens (n) of a point in time, see :func:`time_text`."""
        return self._encode(time_text(record_time))

    def _encode(self, text):
        if self._processor is None:
            raise RuntimeError(
                "The ContextTokenizer is empty: train or load it first."
            )
        tokens = self._processor.encode(text) if text else []
        return torch.tensor(tokens or [PADDING])

    @mark_as_saver
    def save(self, path):
        """Writes the SentencePiece model to ``path``."""
        if self._processor is None:
            raise RuntimeError("The ContextTokenizer has nothing to save yet.")
        Path(path).write_bytes(self._processor.serialized_model_proto())

    @mark_as_loader
    def load(self, path, end_of_epoch=False):
        """Reads a SentencePiece model from ``path``."""
        del end_of_epoch  # part of SpeechBrain's loader signature
        self._processor = sentencepiece.SentencePieceProcessor(
            model_file=str(path)
        )


class ContextEncoder(nn.Module):
    """Tokens of place and time to one context vector.

    The vector is the sum of a part for the place and a part for the time.
    Where one is missing, its part is a learned null vector; with both
    missing the context is the learned null context.  In training, known
    places and times are hidden at random, so that the null vectors are
    learned even where the metadata is complete.

    Arguments
    ---------
    context_size : int
        Length of the context vector.
    vocab_size : int
        Upper limit of the vocabulary of the tokenizer.
    embedding_size : int
        Length of a token's embedding.
    hidden_rate : float
        Share of places, and independently of times, hidden in training.
    max_tokens : int
        Tokens of a text beyond this number are ignored.

    Example
    -------
    >>> tokenizer = ContextTokenizer()
    >>> tokenizer.train(["Xi'an"])
    >>> place = tokenizer.encode_location("Xi'an").unsqueeze(0)
    >>> time = tokenizer.encode_time("2023-04-21 18:30:00").unsqueeze(0)
    >>> ContextEncoder(context_size=4)(place, time).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        context_size=64,
        vocab_size=256,
        embedding_size=64,
        hidden_rate=0.3,
        max_tokens=48,
    ):
        super().__init__()
        self.hidden_rate = hidden_rate
        self.max_tokens = max_tokens
        self.tokens = nn.Embedding(
            vocab_size, embedding_size, padding_idx=PADDING
        )
        self.positions = nn.Embedding(max_tokens, embedding_size)
        self.hidden = nn.Linear(embedding_size, embedding_size)
        self.location = nn.Linear(embedding_size, context_size)
        self.time = nn.Linear(embedding_size, context_size)
        self.null_location = nn.Parameter(torch.zeros(context_size))
        self.null_time = nn.Parameter(torch.zeros(context_size))

    def forward(self, location_tokens, time_tokens):
        """Encodes a batch.

        Arguments
        ---------
        location_tokens, time_tokens : torch.Tensor
            Tokens (batch, n), padded with 0; only padding means unknown.

        Returns
        -------
        torch.Tensor
            Context vectors (batch, context_size).
        """
        return self._part(
            location_tokens, self.location, self.null_location
        ) + self._part(time_tokens, self.time, self.null_time)

    def _part(self, tokens, project, null):
        tokens = tokens[:, : self.max_tokens]
        present = (tokens != PADDING).unsqueeze(-1)  # (B, n, 1)
        known = present.any(1)  # (B, 1)
        if self.training:
            shown = torch.rand(known.shape, device=known.device)
            known = known & (shown >= self.hidden_rate)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(positions)
        # The nonlinearity ties each token to its place before the mean.
        x = F.gelu(self.hidden(x)) * present
        x = x.sum(1) / present.sum(1).clamp(min=1)  # (B, embedding_size)
        return torch.where(known, project(x), null)
