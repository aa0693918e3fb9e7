"""Place and time: their texts, their tokens, and the context vector."""

import calendar
import math
from datetime import datetime, timedelta, timezone

import pandas as pd
import pytest
import torch
from hypothesis import (
    example,
    given,
    strategies as st,
)
from model_checks import check_gradients
from speechbrain.utils.checkpoints import Checkpointer

from ascmamba_modules.context import PADDING, ContextEncoder, ContextTokenizer
from ascmamba_modules.data.place_and_time import later, location_text, time_text

PLACES = ["Xi'an", "Luoyang", "Shanghai", "Jinan", "Nanchang", "Liupanshui"]
UNKNOWN = [None, "", " ", math.nan, pd.NA, pd.NaT]


@given(st.text())
@example("ß\u0301")  # folding makes "ss", of which normalising composes "sś"
def test_text_of_a_place_is_in_normal_form(place):
    text = location_text(place)
    assert location_text(text) == text
    assert text == text.strip() and "  " not in text
    assert location_text(f"\t {place}\n") == text


@pytest.mark.parametrize(
    "place",
    ["Xi'an", "XI'AN", " xi'an ", "Xi’an", "\uff38\uff49'an", "Xi'an\n"],
)
def test_ways_to_write_a_place_are_one_text(place):
    assert location_text(place) == "xi'an"


@pytest.mark.parametrize("unknown", UNKNOWN, ids=repr)
@pytest.mark.parametrize("text", [location_text, time_text])
def test_unknown_is_the_empty_text(text, unknown):
    assert text(unknown) == ""


def expected_time_text(moment):
    month = calendar.month_name[moment.month]
    day = calendar.day_name[moment.weekday()]
    return f"{month} {day} {moment.hour:02d}".lower()


@given(
    st.datetimes(
        # What pandas before 3.0 can hold.
        min_value=datetime(1678, 1, 1),
        max_value=datetime(2261, 12, 31),
        timezones=st.none()
        | st.integers(-720, 720).map(
            lambda minutes: timezone(timedelta(minutes=minutes))
        ),
    )
)
def test_time_is_month_weekday_and_hour_however_it_is_written(moment):
    expected = expected_time_text(moment)
    assert time_text(moment) == expected
    assert time_text(moment.isoformat()) == expected
    assert time_text(f" {moment.isoformat(sep=' ')} ") == expected
    assert time_text(moment.isoformat(timespec="minutes")) == expected
    assert time_text(pd.Timestamp(moment)) == expected
    day = expected.rsplit(" ", 1)[0]
    assert time_text(moment.date().isoformat()) == day


def test_time_of_the_hour_alone_has_its_hour():
    assert time_text("2023-04-21T18") == "april friday 18"


@pytest.mark.parametrize(
    "wrong", ["yesterday", "1682101800", "25:00", "2023-13-01", "21/04/2023"]
)
def test_text_that_is_no_time_is_refused(wrong):
    with pytest.raises(ValueError, match=f"'{wrong}' is not a time"):
        time_text(wrong)


@pytest.mark.parametrize("wrong", ["now", "today", "NaT", "nan"])
def test_word_that_pandas_takes_for_a_time_is_refused(wrong):
    with pytest.raises(ValueError, match=f"'{wrong}' is not a time"):
        time_text(wrong)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = ContextTokenizer()
    tokenizer.train([*PLACES, *PLACES, None, ""])
    return tokenizer


def all_tokens(tokenizer):
    times = pd.date_range("2023-01-01", periods=400, freq="31h")
    return [tokenizer.encode_location(place).tolist() for place in PLACES] + [
        tokenizer.encode_time(time).tolist() for time in times
    ]


def test_texts_differ_in_their_tokens(tokenizer):
    places = {tuple(t.tolist()) for t in map(tokenizer.encode_location, PLACES)}
    assert len(places) == len(PLACES)
    times = pd.date_range("2023-01-01", periods=400, freq="31h")
    texts = {time_text(time) for time in times}
    tokens = {tuple(tokenizer.encode_time(time).tolist()) for time in times}
    assert len(tokens) == len(texts) > 100


def test_no_token_of_a_known_place_or_time_is_padding_or_unknown(tokenizer):
    assert min(min(tokens) for tokens in all_tokens(tokenizer)) >= 2
    assert max(max(tokens) for tokens in all_tokens(tokenizer)) < 256


@given(place=st.text(min_size=1))
def test_place_unseen_in_training_has_tokens(tokenizer, place):
    tokens = tokenizer.encode_location(place)
    assert tokens.dtype == torch.long and tokens.dim() == 1
    assert len(tokens) >= 1
    assert tokens.min() >= 0 and tokens.max() < 256


@pytest.mark.parametrize("unknown", UNKNOWN, ids=repr)
def test_unknown_is_one_token_of_padding(tokenizer, unknown):
    assert tokenizer.encode_location(unknown).tolist() == [PADDING]
    assert tokenizer.encode_time(unknown).tolist() == [PADDING]


def test_order_of_the_training_places_makes_no_difference(tokenizer):
    other = ContextTokenizer()
    other.train(reversed(PLACES))
    assert all_tokens(other) == all_tokens(tokenizer)


@pytest.mark.parametrize(
    "places",
    [[], [None], ["北京", "上海"], [chr(0x4E00 + i) for i in range(500)]],
    ids=["none", "unknown", "other letters", "more letters than tokens"],
)
def test_trains_on_any_places(places):
    tokenizer = ContextTokenizer(vocab_size=60)
    tokenizer.train(places)
    for place in [*places, "Xi'an"]:
        assert tokenizer.encode_location(place).max() < 60
    assert tokenizer.encode_time("2023-04-21 18:30").min() >= 2


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.ckpt")
    loaded = ContextTokenizer()
    loaded.load(tmp_path / "tokenizer.ckpt", end_of_epoch=True)
    assert all_tokens(loaded) == all_tokens(tokenizer)


def test_checkpointer_of_speechbrain_saves_and_loads(tokenizer, tmp_path):
    Checkpointer(tmp_path, {"tokenizer": tokenizer}).save_checkpoint()
    loaded = ContextTokenizer()
    assert Checkpointer(tmp_path, {"tokenizer": loaded}).recover_if_possible()
    assert all_tokens(loaded) == all_tokens(tokenizer)


@pytest.mark.parametrize(
    "use",
    [
        lambda tokenizer: tokenizer.encode_location("Xi'an"),
        lambda tokenizer: tokenizer.encode_time("2023-04-21"),
        lambda tokenizer: tokenizer.save("never-written.ckpt"),
    ],
    ids=["place", "time", "save"],
)
def test_empty_tokenizer_says_so(use):
    with pytest.raises(RuntimeError, match="ContextTokenizer"):
        use(ContextTokenizer())


@pytest.fixture
def encoder(randomise):
    return randomise(
        ContextEncoder(context_size=8, embedding_size=16, max_tokens=20)
    ).eval()


@pytest.fixture
def place(tokenizer):
    return tokenizer.encode_location("Xi'an").unsqueeze(0)


@pytest.fixture
def time(tokenizer):
    return tokenizer.encode_time("2023-04-21 18:30:00").unsqueeze(0)


NOTHING = torch.tensor([[PADDING]])


def test_missing_parts_are_their_null_vectors(encoder, place, time):
    both = encoder(NOTHING, NOTHING)[0]
    torch.testing.assert_close(both, encoder.null_location + encoder.null_time)
    # The vector is a sum: what is known adds the same beside a null vector.
    place_part = encoder(place, NOTHING)[0] - encoder.null_time
    time_part = encoder(NOTHING, time)[0] - encoder.null_location
    torch.testing.assert_close(encoder(place, time)[0], place_part + time_part)
    for part, null in (
        (place_part, encoder.null_location),
        (time_part, encoder.null_time),
    ):
        assert (part - null).abs().max() > 0.1


def test_clips_of_a_batch_are_each_like_alone(encoder, tokenizer):
    places = [*map(tokenizer.encode_location, PLACES), NOTHING[0]]
    times = [
        NOTHING[0],
        *(tokenizer.encode_time(f"2023-0{m}-01") for m in range(1, 7)),
    ]

    def pad(tokens):
        return torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)

    together = encoder(pad(places), pad(times))
    for row, (location, moment) in enumerate(zip(places, times)):
        torch.testing.assert_close(
            together[row], encoder(location[None], moment[None])[0]
        )


def test_metadata_dropout_is_the_share_hidden_in_training(encoder, place, time):
    encoder.metadata_dropout = 0.3
    possible = torch.cat(
        [
            encoder(location, moment)
            for location in (place, NOTHING)
            for moment in (time, NOTHING)
        ]
    )
    encoder.train()
    n = 5000
    vectors = encoder(place.expand(n, -1), time.expand(n, -1))
    distances = torch.cdist(vectors, possible)
    assert distances.min(1).values.max() < 1e-3
    shares = distances.argmin(1).bincount(minlength=4) / n
    # Place and time are hidden independently; 5 standard errors.
    expected = torch.tensor([0.7 * 0.7, 0.7 * 0.3, 0.3 * 0.7, 0.3 * 0.3])
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.036)


@pytest.mark.parametrize("metadata_dropout", [0.0, 1.0])
def test_metadata_dropout_of_none_and_all(
    metadata_dropout, encoder, place, time
):
    visible = (place, time) if metadata_dropout == 0.0 else (NOTHING, NOTHING)
    expected = encoder(*visible)
    encoder.metadata_dropout = metadata_dropout
    encoder.train()
    vectors = encoder(place.expand(500, -1), time.expand(500, -1))
    torch.testing.assert_close(vectors, expected.expand(500, -1))


def test_tokens_beyond_the_limit_are_ignored(encoder):
    tokens = torch.randint(2, 30, (3, 50))
    torch.testing.assert_close(
        encoder(tokens, NOTHING.expand(3, 1)),
        encoder(tokens[:, :20], NOTHING.expand(3, 1)),
    )
    fewer = encoder(tokens[:, :19], NOTHING.expand(3, 1))
    assert not torch.allclose(encoder(tokens, NOTHING.expand(3, 1)), fewer)


def test_places_differ_in_their_vectors(encoder, tokenizer):
    vectors = torch.cat(
        [
            encoder(tokenizer.encode_location(place)[None], NOTHING)
            for place in PLACES
        ]
    )
    distances = torch.cdist(vectors, vectors) + 100 * torch.eye(len(PLACES))
    assert distances.min() > 0.1


def test_order_of_the_letters_matters(encoder, tokenizer):
    one, other = (
        encoder(tokenizer.encode_location(name)[None], NOTHING)
        for name in ("anshan", "shanan")
    )
    assert (one - other).abs().max() > 0.05


def test_two_encodes_are_equal(encoder, place, time):
    assert torch.equal(encoder(place, time), encoder(place, time))


def test_every_parameter_gets_a_gradient(encoder, place, time):
    location = torch.cat([place, torch.zeros_like(place)])
    moment = torch.cat([torch.zeros_like(time), time])
    check_gradients(encoder, encoder(location, moment))


def test_later_crosses_midnight_and_keeps_what_is_not_known():
    assert str(later(" 2023-12-31T23:30", 3600)) == "2024-01-01 00:30:00"
    start = datetime(2023, 4, 21, 18)
    assert later(start, 0.5) == start + timedelta(seconds=0.5)
    for same in ("2023-04-21", None, ""):
        assert later(same, 1e6) == same
    with pytest.raises(ValueError, match="not a time"):
        later("18:30", 1)


def test_places_of_too_many_letters_are_told(caplog):
    places = [chr(0x4E00 + i) for i in range(60)]
    ContextTokenizer(vocab_size=80).train(places)
    assert "characters of places are beyond vocab_size, 80" in caplog.text
    caplog.clear()
    ContextTokenizer(vocab_size=256).train(places)
    assert not caplog.text


def test_places_and_times_are_exchanged_as_pairs_in_training(tokenizer):
    places = [PLACES[i % 2] for i in range(400)]
    times = [
        "2023-04-21 18:30" if i % 2 else "2023-05-01 06:30" for i in range(400)
    ]
    tokens = tokenizer.encode_batch(places, times)
    encoder = ContextEncoder(
        context_size=4, metadata_dropout=0.0, metadata_swap=0.6
    )
    with torch.no_grad():
        expected = encoder.eval()(*tokens)
        found = encoder.train()(*tokens)
        lone = encoder(*(x[:1] for x in tokens))
    # Each clip has one pair or the other, half of those drawn a wrong one.
    changed = (found - expected).abs().amax(1) > 1e-5
    other = expected.view(200, 2, 4).flip(1).reshape(400, 4)
    torch.testing.assert_close(found[changed], other[changed])
    assert changed.float().mean() == pytest.approx(0.3, abs=0.1)
    torch.testing.assert_close(lone, expected[:1])
    encoder.metadata_swap = 0.0
    torch.testing.assert_close(encoder(*tokens), expected)
