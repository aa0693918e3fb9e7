"""``ascmamba listen``: what is heard now."""

import json
import math
import sys
from contextlib import contextmanager

from ascmamba_modules.command_line.options import (
    CommandError,
    add_metadata_options,
    add_model_options,
    add_subparser,
    add_window_options,
    load_classifier,
    positive,
)

_DESCRIPTION = """\
Classifies audio while it comes in, from a microphone or as raw samples (PCM) on
standard input, and prints a line of JSON for each window as soon as it is over:
start and end in seconds, scene_label, probability, and the posteriors of all
classes, those of 'ascmamba timeline'.  Nothing is kept.
"""
_EXAMPLES = """\
  ascmamba listen --smooth 10
  ascmamba listen - --rate 48000 < samples.pcm
  ffmpeg -loglevel error -f alsa -i default -f s16le -ac 1 -ar 48000 - |
      ascmamba listen - --rate 48000 --record-time "$(date '+%F %T')"
"""
# Little-endian, under FFmpeg's names.
_ENCODINGS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}
_DIGITS = 6
_AHEAD = 0.1  # of the label, for another to take its place in --smooth


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "listen",
        "what is heard now, by a microphone or on standard input",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="-|MICROPHONE",
        help="- for standard input, else a microphone by its number or a part "
        "of its name (default: the system's); needs ascmamba[microphone]",
    )
    parser.add_argument(
        "--rate",
        type=positive(int),
        metavar="HZ",
        help="its sample rate; a microphone has one of its own",
    )
    parser.add_argument(
        "--channels",
        type=positive(int),
        default=1,
        metavar="N",
        help="its channels, which are averaged (default: 1)",
    )
    parser.add_argument(
        "--encoding",
        choices=_ENCODINGS,
        default="s16le",
        help="samples of standard input, as FFmpeg names them (default: s16le)",
    )
    parser.add_argument(
        "--smooth",
        type=positive(float),
        metavar="S",
        help="label posteriors that are averaged exponentially, with a time "
        f"constant of S seconds, and keep a label until another is {_AHEAD} "
        "ahead (default: each window's own)",
    )
    add_model_options(parser, batch_size=1)
    add_metadata_options(parser)
    add_window_options(parser, 1.0, "1")
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    if arguments.source == "-" and arguments.rate is None:
        raise CommandError("standard input needs --rate, its sample rate")
    classifier = load_classifier(arguments)
    from ascmamba_modules.data.resampling import resample_stream

    choose = _chooser(arguments.smooth, arguments.hop)
    heard = False
    with _open(arguments) as (read, rate):
        blocks = resample_stream(
            *(read, rate, arguments.channels, classifier.audio_normalizer),
            block_length=min(arguments.hop, 10.0),
        )
        batches = classifier.classify_stream(
            blocks,
            *(arguments.window, arguments.hop),
            *(arguments.location, arguments.record_time, arguments.batch_size),
        )
        for starts, ends, posteriors in batches:
            heard = True
            for start, end, row in zip(
                starts, ends, posteriors.double().tolist()
            ):
                index, probability = choose(row)
                line = {
                    "start": round(start, _DIGITS),
                    "end": round(end, _DIGITS),
                    "scene_label": classifier.classes[index],
                    "probability": round(probability, _DIGITS),
                    "posteriors": {
                        name: round(value, _DIGITS)
                        for name, value in zip(classifier.classes, row)
                    },
                }
                print(json.dumps(line, ensure_ascii=False), flush=True)
    if not heard:
        raise CommandError("standard input is empty")
    return 0


def _chooser(seconds, hop):
    """Makes what gives the index of the label, and its probability, from the
    posteriors of one window after another."""
    weight = math.exp(-hop / seconds) if seconds else 0.0
    ahead = _AHEAD if seconds else 0.0
    mean = label = None

    def choose(posteriors):
        nonlocal mean, label
        mean = [
            weight * old + (1 - weight) * new
            for old, new in zip(mean or posteriors, posteriors)
        ]
        best = max(range(len(mean)), key=mean.__getitem__)
        if label is None or mean[best] >= mean[label] + ahead:
            label = best
        return label, mean[label]

    return choose


@contextmanager
def _open(arguments):
    """Gives a function that reads frames (time, channels), and their rate."""
    if arguments.source == "-":
        stream = sys.stdin.buffer
        read = _reader(stream, arguments.encoding, arguments.channels)
        yield read, arguments.rate
        return
    try:
        import sounddevice
    except ImportError:
        raise CommandError(
            "a microphone needs sounddevice: pip install 'ascmamba[microphone]'"
        ) from None
    except OSError as error:
        raise CommandError(
            f"a microphone needs PortAudio ({error}), e.g. apt install "
            "libportaudio2"
        ) from None
    name = arguments.source
    name = int(name) if name and name.isdecimal() else name
    try:
        rate = arguments.rate or int(
            sounddevice.query_devices(name, "input")["default_samplerate"]
        )
        stream = sounddevice.InputStream(
            rate, device=name, channels=arguments.channels, dtype="float32"
        )
    except (ValueError, sounddevice.PortAudioError) as error:
        raise CommandError(
            f"no such microphone ({' '.join(str(error).split())}); "
            "'python -m sounddevice' lists those there are"
        ) from None

    def read(frames):
        samples, are_lost = stream.read(frames)
        if are_lost:
            print("ascmamba: samples were lost: too slow", file=sys.stderr)
        return samples

    with stream:
        yield read, rate


def _reader(stream, encoding, channels):
    """Makes what reads frames of raw samples from a stream."""
    import numpy as np

    kind = np.dtype(_ENCODINGS[encoding])
    size = kind.itemsize * channels
    scale = 1.0 if kind.kind == "f" else 2.0 ** (8 * kind.itemsize - 1)

    def read(frames):
        data = stream.read(frames * size)  # waits for as many
        if len(data) % size:
            raise CommandError(
                "standard input ends within a sample; check --encoding and "
                "--channels"
            )
        samples = np.frombuffer(data, kind).reshape(-1, channels)
        return (samples / scale).astype(np.float32)

    return read
