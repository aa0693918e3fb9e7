"""Relative lengths to numbers of frames and masks."""

import torch
from hypothesis import (
    given,
    strategies as st,
)
from speechbrain.utils.data_utils import batch_pad_right

from ascmamba_modules.padding import frame_counts, frame_mask, valid_frames


@given(st.lists(st.integers(1, 2_000_000), min_size=1, max_size=5).map(sorted))
def test_counts_come_back_from_relative_lengths(counts):
    longest = counts[-1]
    lengths = torch.tensor([count / longest for count in counts])
    assert frame_counts(lengths, longest).tolist() == counts


def test_counts_of_a_speechbrain_batch():
    clips = [torch.rand(n) for n in (7, 441, 160, 1)]
    wavs, lengths = batch_pad_right(clips)
    assert frame_counts(lengths, wavs.shape[1]).tolist() == [7, 441, 160, 1]


@given(
    st.lists(st.floats(0, 2, width=32), min_size=1, max_size=5),
    st.integers(1, 1000),
)
def test_counts_lie_between_one_and_all(lengths, n_frames):
    counts = frame_counts(torch.tensor(lengths), n_frames)
    assert counts.min() >= 1 and counts.max() <= n_frames


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.integers(1, n), min_size=1, max_size=5)
        )
    )
)
def test_mask_marks_the_frames_of_each_clip(case):
    n_frames, counts = case
    lengths = torch.tensor(counts) / n_frames
    mask = frame_mask(lengths, n_frames)
    valid = valid_frames(lengths, n_frames)
    assert valid.sum(1).tolist() == counts
    if all(count == n_frames for count in counts):
        assert mask is None
        return
    assert torch.equal(mask, valid) and mask.dtype == torch.bool
    assert mask.tolist() == [
        [frame < count for frame in range(n_frames)] for count in counts
    ]


def test_without_lengths_there_is_no_mask():
    assert frame_mask(None, 10) is None
