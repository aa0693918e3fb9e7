"""``ascmamba listen``: what is heard now."""

import json
import sys

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
Classifies audio while it comes in on standard input, as raw samples (PCM), and
prints a line of JSON for each window as soon as it is over: start and end in
seconds, scene_label, probability, and the posteriors of all classes, those of
'ascmamba timeline'.  Nothing is kept.
"""
_EXAMPLES = """\
  ascmamba listen - --rate 48000 < samples.pcm
  ffmpeg -loglevel error -f alsa -i default -f s16le -ac 1 -ar 48000 - |
      ascmamba listen - --rate 48000 --record-time "$(date '+%F %T')"
"""
# Little-endian, under FFmpeg's names.
_ENCODINGS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}
_DIGITS = 6


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "listen",
        "what is heard now, on standard input",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "source", metavar="-", choices=["-"], help="standard input"
    )
    parser.add_argument(
        "--rate",
        type=positive(int),
        required=True,
        metavar="HZ",
        help="its sample rate",
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
        help="its samples, as FFmpeg names them (default: s16le)",
    )
    add_model_options(parser, batch_size=1)
    add_metadata_options(parser)
    add_window_options(parser, 1.0, "1")
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    classifier = load_classifier(arguments)
    from ascmamba_modules.data.resampling import resample_stream

    blocks = resample_stream(
        _reader(sys.stdin.buffer, arguments.encoding, arguments.channels),
        *(arguments.rate, arguments.channels, classifier.audio_normalizer),
        block_length=min(arguments.hop, 10.0),
    )
    batches = classifier.classify_stream(
        blocks,
        *(arguments.window, arguments.hop),
        *(arguments.location, arguments.record_time, arguments.batch_size),
    )
    heard = False
    for starts, ends, posteriors in batches:
        heard = True
        for start, end, row in zip(starts, ends, posteriors.double().tolist()):
            posterior = dict(zip(classifier.classes, row))
            label = max(posterior, key=posterior.get)
            line = {
                "start": round(start, _DIGITS),
                "end": round(end, _DIGITS),
                "scene_label": label,
                "probability": round(posterior[label], _DIGITS),
                "posteriors": {
                    name: round(value, _DIGITS)
                    for name, value in posterior.items()
                },
            }
            print(json.dumps(line, ensure_ascii=False), flush=True)
    if not heard:
        raise CommandError("standard input is empty")
    return 0


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
