"""Files whose headers do not tell where they end, and other decoders."""

import shutil
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile
from speechbrain.dataio.preprocess import AudioNormalizer

from ascmamba_modules.data.audio_files import (
    audio_problem,
    inspect_audio,
    load_audio,
)
from ascmamba_modules.inference.streaming import stream_audio

RATE = 22050
NORMALIZER = AudioNormalizer(RATE)
SECONDS = 3.0
# Quiet, then loud: a variable bitrate rises.
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, int(SECONDS * RATE))
NOISE[: RATE // 2] *= 1e-3


def encoded(path, **options):
    soundfile.write(path, NOISE, RATE, **options)
    return path.read_bytes()


def encoded_by_av(path, codec, rate=RATE):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64_000
        resampler = av.AudioResampler(stream.format, "mono", rate)
        frame = av.AudioFrame.from_ndarray(
            NOISE[None].astype("float32"), "flt", "mono"
        )
        frame.sample_rate = RATE
        fifo = av.AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(part)
        size = stream.codec_context.frame_size or 1024
        while (part := fifo.read(size, partial=True)) is not None:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path.read_bytes()


def mp3(path):
    return encoded(path.with_suffix(".mp3"), bitrate_mode="VARIABLE")


def without_xing(path):
    """An MP3 without its first frame, which states the length."""
    data = mp3(path)
    assert b"Info" in data[:100] or b"Xing" in data[:100]
    return data[data.index(data[:2], 50) :]


def wave(path, size=None, rest=b""):
    data = encoded(path.with_suffix(".wav"), subtype="PCM_16")
    start = data.index(b"data") + 4
    size = data[start:][:4] if size is None else struct.pack("<I", size)
    return data[:start] + size + data[start + 4 :] + rest


def bw64(path):
    path = path.with_suffix(".rf64")
    data = encoded(path, format="RF64", subtype="PCM_24")
    return data.replace(b"RF64", b"BW64", 1)


def unknown_flac(path):
    data = bytearray(encoded(path.with_suffix(".flac")))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return data


def voc_of_sox(path):
    """One block, 8 bytes longer than it states."""
    data = (NOISE * 32767).astype("<i2").tobytes()
    form = struct.pack("<IBBH4x", RATE, 16, 1, 4)
    size = struct.pack("<I", len(form) + len(data) - 8)[:3]
    head = b"Creative Voice File\x1a" + struct.pack("<3H", 26, 0x114, 0x111F)
    return head + b"\t" + size + form + data + b"\0"


def voc(path):
    """Blocks of 16-bit samples, each with a header of four bytes."""
    data = (NOISE * 32767).astype("<i2").tobytes()
    blocks = [data[i : i + 4000] for i in range(0, len(data), 4000)]
    form = struct.pack("<IBBH4x", RATE, 16, 1, 4)
    first = b"\t" + struct.pack("<I", len(form) + len(blocks[0]))[:3] + form
    others = [b"\2" + struct.pack("<I", len(b))[:3] + b for b in blocks[1:]]
    head = b"Creative Voice File\x1a" + struct.pack("<3H", 26, 0x114, 0x111F)
    return head + first + blocks[0] + b"".join(others) + b"\0"


def ogg(path, subtype="VORBIS"):
    return encoded(path, format="OGG", subtype=subtype)


TAG = b"TAG" + bytes(125)
APE = b"x" * 9000 + struct.pack("<8s4I8x", b"APETAGEX", 2000, 9032, 1, 0)
ID3 = b"ID3\3\0\0\0\1\0\0" + b"\0APIC" + bytes(range(1, 252)) * 66
ID3 = ID3[: 10 + 2**14].ljust(10 + 2**14, b"x")
WHOLE = {
    "MP3": (mp3, 1),
    "MP3 without Xing": (without_xing, 1),
    "MP3s joined": (lambda p: mp3(p) * 2, 2),
    "MP3s without Xing joined": (lambda p: without_xing(p) * 3, 3),
    "MP3 with tags": (lambda p: ID3 + mp3(p) + APE + TAG, 1),
    "MP3 with tags, without Xing": (
        lambda p: ID3 + without_xing(p) + APE + TAG,
        1,
    ),
    "MP3 behind zeros": (lambda p: bytes(4096) + mp3(p), 1),
    "MP3 in WAVE": (
        lambda p: encoded_by_av(p.with_suffix(".wav"), "libmp3lame"),
        1,
    ),
    "GSM in WAVE": (lambda p: encoded(p, format="WAV", subtype="GSM610"), 1),
    "ADPCM": (lambda p: encoded(p, format="WAV", subtype="IMA_ADPCM"), 1),
    "WAVE never completed": (lambda p: wave(p, 0), 1),
    "WAVE of a pipe": (lambda p: wave(p, 0xFFFFFFFF), 1),
    "WAVE of SoX into a pipe": (lambda p: wave(p, 0x7FFFF000), 1),
    "WAVE with a chunk behind": (
        lambda p: wave(
            p, None, b"LIST" + struct.pack("<I", 50_000) + b"x" * 50_000
        ),
        1,
    ),
    "WAVE with tags behind": (lambda p: wave(p, None, ID3), 1),
    "BW64": (bw64, 1),
    "FLAC of unknown length": (unknown_flac, 1),
    "Ogg of two streams": (lambda p: ogg(p) * 2, 2),
    "Opus of two streams": (
        lambda p: encoded_by_av(p.with_suffix(".ogg"), "libopus", 48000) * 2,
        2,
    ),
    "VOC of blocks": (voc, 1),
    "SoX's VOC": (voc_of_sox, 1),
    "M4A": (lambda p: encoded_by_av(p.with_suffix(".m4a"), "aac"), 1),
    "AAC": (lambda p: encoded_by_av(p.with_suffix(".aac"), "aac"), 1),
    "ALAC": (lambda p: encoded_by_av(p.with_suffix(".mov"), "alac"), 1),
    "WMA": (lambda p: encoded_by_av(p.with_suffix(".wma"), "wmav2", 44100), 1),
    "Opus in WebM": (
        lambda p: encoded_by_av(p.with_suffix(".webm"), "libopus", 48000),
        1,
    ),
}
EXACT = ("WAVE", "BW64", "FLAC", "VOC", "ALAC")


def read_in_all_ways(path):
    """Seconds that are stated, loaded and streamed, and the waveform."""
    header = inspect_audio(path)
    assert header.problem == "", header
    wav = load_audio(path, NORMALIZER)
    streamed = sum(map(len, stream_audio(path, NORMALIZER, 1.0)))
    return [header.duration, len(wav) / RATE, streamed / RATE], wav


def by_ffmpeg(path):
    """Seconds that the program ffmpeg decodes."""
    command = ["ffmpeg", "-v", "quiet", "-i", path, "-map", "0:a:0"]
    command += [*("-ac", "1", "-ar", str(RATE), "-f", "s16le", "-")]
    found = subprocess.run(command, capture_output=True)
    return len(found.stdout) / 2 / RATE


@pytest.mark.parametrize("name", WHOLE)
def test_file_is_read_whole(tmp_path, name):
    make, times = WHOLE[name]
    path = tmp_path / "clip"  # no suffix is needed
    path.write_bytes(make(tmp_path / "part"))
    seconds, wav = read_in_all_ways(path)
    np.testing.assert_allclose(seconds, seconds[0], atol=0.01)
    # Encoders add less than 0.1 s of silence.
    assert times * SECONDS - 0.05 < seconds[0] < times * (SECONDS + 0.1)
    if name.startswith(EXACT):
        np.testing.assert_allclose(wav, NOISE, atol=1e-3)
    if shutil.which("ffmpeg"):
        assert seconds[0] == pytest.approx(by_ffmpeg(path), abs=0.05)
    assert inspect_audio(path, decode=False).problem == ""


CUT = {
    "wav": lambda p: encoded(p),
    "rf64": lambda p: encoded(p, format="RF64"),
    "w64": lambda p: encoded(p, format="W64"),
    "aiff": lambda p: encoded(p, format="AIFF"),
    "au": lambda p: encoded(p, format="AU"),
    "caf": lambda p: encoded(p, format="CAF"),
    "sph": lambda p: encoded(p, format="NIST"),
    "8svx": lambda p: encoded(p, format="SVX"),
    "gsm": lambda p: encoded(p, format="WAV", subtype="GSM610"),
    "voc": voc,
    "flac": lambda p: encoded(p),
    "ogg": ogg,
    "opus": lambda p: encoded_by_av(p.with_suffix(".ogg"), "libopus", 48000),
    "mp3": mp3,
    "m4a": lambda p: encoded_by_av(p, "aac"),
    "wma": lambda p: encoded_by_av(p, "wmav2", 44100),
}


@pytest.mark.parametrize("suffix", CUT)
def test_file_that_is_cut_short_is_refused(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    data = CUT[suffix](path)
    path.write_bytes(data)
    assert audio_problem(path) is None
    for kept in (0.95, 0.7, 0.5, 0.1):
        path.write_bytes(data[: int(kept * len(data))])
        problem = audio_problem(path)
        assert "truncated" in problem or "not an audio" in problem
        with pytest.raises(ValueError):
            load_audio(path, NORMALIZER)
        with pytest.raises(ValueError):
            list(stream_audio(path, NORMALIZER))


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus", "mp3", "m4a"])
def test_damage_in_the_middle_is_found(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    data = bytearray(CUT[suffix](path))
    middle = len(data) // 2
    noise = np.random.default_rng(0).bytes(3000)
    data[middle : middle + 3000] = noise
    path.write_bytes(data)
    assert "damaged" in audio_problem(path)
    for read in (load_audio, lambda *a: list(stream_audio(*a))):
        with pytest.raises(ValueError, match="damaged"):
            read(path, NORMALIZER)


def test_missing_pages_of_two_ogg_streams_are_found(tmp_path):
    path = tmp_path / "clip.ogg"
    data = ogg(path)
    second = data.index(b"OggS", data.index(b"OggS", 9000) + 1)
    path.write_bytes(data + data[:9000] + data[second:])
    assert "damaged" in audio_problem(path)
    third = data.index(b"OggS", second + 1)
    path.write_bytes(data + data[:second] + data[third:])
    assert "pages are missing" in audio_problem(path)


def test_size_beyond_4_gib_that_has_wrapped(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(wave(path, 4000, b"x" * 4000))
    problem = audio_problem(path)  # neither samples nor a chunk
    assert "4000 bytes" in problem and "ignore_length" in problem
    with open(path, "r+b") as file:
        file.truncate(44 + 4000 + 3 * 2**32)  # takes no room on the disk
    header = inspect_audio(path)
    assert header.problem == ""
    assert header.duration == (2000 + 3 * 2**31) / RATE


def test_what_is_odd_is_said_once(tmp_path, caplog):
    path = tmp_path / "clip.wav"
    path.write_bytes(wave(path, 0))
    for _ in range(3):
        load_audio(path, NORMALIZER)
    assert caplog.text.count("never completed") == 1
    assert caplog.text.count(str(path)) == 1
    path = tmp_path / "clip.ogg"
    data = ogg(path)
    path.write_bytes(data[: data.rindex(b"OggS")])  # a whole page is missing
    load_audio(path, NORMALIZER)
    assert "end mark is missing" in caplog.text


def test_without_pyav_the_message_names_it(tmp_path, monkeypatch):
    m4a, joined, plain = (tmp_path / f"{name}.x" for name in "abc")
    m4a.write_bytes(encoded_by_av(tmp_path / "a.m4a", "aac"))
    joined.write_bytes(mp3(tmp_path / "b") * 2)
    plain.write_bytes(mp3(tmp_path / "c") + APE + TAG)
    monkeypatch.setitem(sys.modules, "av", None)
    assert "ascmamba[av]" in audio_problem(m4a)
    assert "only 3.00 s of it" in audio_problem(joined)
    assert audio_problem(plain) is None


def test_no_bytes_raise_another_error(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "clip"
    for suffix, make in CUT.items():
        data = np.frombuffer(make(tmp_path / f"part.{suffix}"), "u1")
        for span in (40, 200, len(data)):
            spoilt = data.copy()
            where = rng.integers(0, span, 10)
            spoilt[where] = rng.integers(0, 256, 10)
            path.write_bytes(spoilt.tobytes())
            header = inspect_audio(path)
            if header.problem:
                with pytest.raises(ValueError):
                    load_audio(path, NORMALIZER)


def by_sox(path):
    """Seconds that the program sox decodes."""
    command = ["sox", path, "-c", "1", "-r", str(RATE), "-b", "16"]
    command += ["-e", "signed", "-t", "raw", "-"]
    found = subprocess.run(command, capture_output=True, check=True)
    return len(found.stdout) / 2 / RATE


# What each program writes: suffix, codec or options.
BY_FFMPEG = [
    *(("wav", f"pcm_{kind}") for kind in ("u8", "s16le", "s24le", "f32le")),
    *(("wav", codec) for codec in ("pcm_alaw", "adpcm_ms", "libmp3lame")),
    *(("w64", "pcm_s16le"), ("aiff", "pcm_s16be"), ("au", "pcm_mulaw")),
    *(("caf", "alac"), ("caf", "pcm_s16be"), ("voc", "pcm_u8")),
    *(("flac", "flac"), ("ogg", "libvorbis"), ("ogg", "flac")),
    *(("ogg", "libopus"), ("mp3", "libmp3lame"), ("mp2", "mp2")),
    *(("m4a", "aac"), ("m4a", "alac"), ("aac", "aac"), ("3gp", "aac")),
    *(("webm", "libvorbis"), ("webm", "libopus"), ("mka", "flac")),
    *(("ac3", "ac3"), ("wma", "wmav2"), ("wv", "wavpack"), ("tta", "tta")),
]
BY_SOX = [
    *("wav", "aiff", "aifc", "au", "flac", "ogg", "voc", "sph", "caf", "w64"),
    *("amb", "htk", "ircam", "paf", "mat4", "mat5", "pvf"),
]


def made_by(program, path, source, codec=None):
    """Writes a file with a program; skips what the program cannot write."""
    command = ["sox", source, path]
    if program == "ffmpeg":
        command = ["ffmpeg", "-v", "error", "-i", source, "-c:a", codec, path]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(result.stderr.strip().splitlines()[-1])


def write_source(path, rate, channels):
    rng = np.random.default_rng(0)
    common = rng.uniform(-0.3, 0.3, (int(2.3 * rate), 1))
    soundfile.write(path, common + rng.uniform(-0.05, 0.05, channels), rate)


MATRIX = pytest.mark.parametrize(
    "rate, channels", [(8000, 1), (22050, 2), (44100, 1), (48000, 6)]
)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg")
@MATRIX
@pytest.mark.parametrize("suffix, codec", BY_FFMPEG)
def test_what_ffmpeg_writes(tmp_path, suffix, codec, rate, channels):
    write_source(tmp_path / "source.wav", rate, channels)
    path = tmp_path / f"made.{suffix}"
    made_by("ffmpeg", path, tmp_path / "source.wav", codec)
    seconds, _ = read_in_all_ways(path)
    np.testing.assert_allclose(seconds, by_ffmpeg(path), atol=0.05)


@pytest.mark.skipif(not shutil.which("sox"), reason="no sox")
@MATRIX
@pytest.mark.parametrize("suffix", BY_SOX)
def test_what_sox_writes(tmp_path, suffix, rate, channels):
    write_source(tmp_path / "source.wav", rate, channels)
    path = tmp_path / f"made.{suffix}"
    made_by("sox", path, tmp_path / "source.wav")
    seconds, _ = read_in_all_ways(path)
    np.testing.assert_allclose(seconds, by_sox(path), atol=0.05)
