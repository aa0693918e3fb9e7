"""Place and time of a recording as a context vector.

Source: ASCMamba paper, section 3.1.2, which feeds text embeddings of place
and time to the conditional norms and leaves the embedding open.  Here place
and time become two short texts, SentencePiece cuts them, and a small network
turns the pieces into a vector.
"""

import io
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
from speechbrain.utils.logger import get_logger
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from ascmamba_modules.data.place_and_time import location_text, time_text

logger = get_logger(__name__)

PADDING = 0
# Characters that must have tokens, whether or not the training set has them.
_ALPHABET = ("abcdefghijklmnopqrstuvwxyz", "0123456789", "-'., ")


@register_checkpoint_hooks
class ContextTokenizer:
    """Turns place and time into SentencePiece tokens.

    It is trained on the metadata of the training set and saved with the
    model.  Token 0 is padding; an unknown place or time is one padding token.

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
            # Larger pieces would need more text to be learned.
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
        piece, unknown = self._processor.piece_to_id, self._processor.unk_id()
        letters = sorted(set("".join(texts)) - {" "})
        left_out = [x for x in letters if piece(x) == unknown]
        if left_out:
            logger.warning(
                "%d characters of places are beyond vocab_size, %d, and read "
                "as unknown ones: raise it (%s ...)",
                *(len(left_out), self.vocab_size, " ".join(left_out[:5])),
            )

    def encode_location(self, location):
        """Tokens (n) of a place, see :func:`location_text`."""
        return self._encode(location_text(location))

    def encode_time(self, record_time):
        """Tokens (n) of a point in time, see :func:`time_text`."""
        return self._encode(time_text(record_time))

    def encode(self, location, record_time):
        """Tokens of a place and of a time, each (n)."""
        return self.encode_location(location), self.encode_time(record_time)

    def encode_batch(self, locations, record_times):
        """Encodes the places and times of clips.

        Arguments
        ---------
        locations, record_times : list
            One a clip; None or empty where unknown.

        Returns
        -------
        location_tokens, time_tokens : torch.Tensor
            (batch, n), padded with 0.

        Example
        -------
        >>> tokenizer = ContextTokenizer()
        >>> tokenizer.train(["Xi'an"])
        >>> places, times = tokenizer.encode_batch(["Xi'an", ""], [None] * 2)
        >>> places.shape, times.shape
        (torch.Size([2, 6]), torch.Size([2, 1]))
        """
        tokens = zip(*map(self.encode, locations, record_times))
        return tuple(pad_sequence(part, batch_first=True) for part in tokens)

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
    """Encodes tokens of place and time as one context vector.

    The vector is the sum of a part for the place and a part for the time.
    Where one is missing, its part is a learned null vector; with both
    missing the context is the learned null context.  In training, known
    places and times are dropped at random, so that the null vectors are
    learned even if the metadata is complete.  Others are exchanged for those
    of another clip, so that the network learns to doubt what the audio does
    not bear out.

    Arguments
    ---------
    context_size : int
        Length of the context vector.
    vocab_size : int
        Upper limit of the vocabulary of the tokenizer.
    embedding_size : int
        Length of a token's embedding.
    metadata_dropout : float
        Probability with which a place, and independently a time, is treated
        as unknown in training.
    metadata_swap : float
        Probability with which a clip has the place and time of another clip
        of the batch in training.
    max_tokens : int
        Tokens of a text beyond this number are ignored.

    Example
    -------
    >>> tokenizer = ContextTokenizer()
    >>> tokenizer.train(["Xi'an"])
    >>> tokens = tokenizer.encode_batch(["Xi'an"], ["2023-04-21 18:30:00"])
    >>> ContextEncoder(context_size=4)(*tokens).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        context_size=64,
        vocab_size=256,
        embedding_size=64,
        metadata_dropout=0.3,
        max_tokens=48,
        metadata_swap=0.0,
    ):
        super().__init__()
        self.metadata_dropout = metadata_dropout
        self.metadata_swap = metadata_swap
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
        if self.training and self.metadata_swap > 0:
            location_tokens, time_tokens = self._swap(
                location_tokens, time_tokens
            )
        return self._part(
            location_tokens, self.location, self.null_location
        ) + self._part(time_tokens, self.time, self.null_time)

    def _swap(self, *parts):
        """Exchanges places and times, as pairs, within the batch."""
        batch, device = len(parts[0]), parts[0].device
        others = torch.randperm(batch, device=device)
        drawn = torch.rand(batch, 1, device=device) < self.metadata_swap
        return [torch.where(drawn, x[others], x) for x in parts]

    def _part(self, tokens, project, null):
        tokens = tokens[:, : self.max_tokens]
        present = (tokens != PADDING).unsqueeze(-1)  # (B, n, 1)
        known = present.any(1)  # (B, 1)
        if self.training:
            shown = torch.rand(known.shape, device=known.device)
            known = known & (shown >= self.metadata_dropout)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(positions)
        # The nonlinearity ties each token to its position before the mean.
        x = F.gelu(self.hidden(x)) * present
        x = x.sum(1) / present.sum(1).clamp(min=1)  # (B, embedding_size)
        return torch.where(known, project(x), null)
