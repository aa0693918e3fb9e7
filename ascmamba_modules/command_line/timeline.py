"""``ascmamba timeline``: what is heard when in long recordings."""

import json
import os
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

from ascmamba_modules.command_line.options import (
    CommandError,
    add_metadata_options,
    add_model_options,
    add_skip_errors,
    add_subparser,
    add_window_options,
    check_output,
    load_classifier,
    report_failed,
)
from ascmamba_modules.command_line.recordings import (
    find_recordings,
    print_left_out,
)
from ascmamba_modules.utils.remote import absolute, fetched_once

_DESCRIPTION = """\
Classifies recordings of any length in windows; memory does not grow with their
length or number.  Prints the segments of one scene each: file, start and end in
seconds, scene_label, and probability, the mean posterior.

With --output and --format the segments go into a file, one table of all
recordings; with --output alone the file has the posteriors of all windows.  If
the command is killed, the same command goes on with the recording that it was
at.
"""
_EXAMPLES = """\
  ascmamba timeline night.flac --model results/finetune/1986/model
  ascmamba timeline recordings/ --model model --skip-errors \\
      --format raven --output recordings.selections.txt
  ascmamba timeline night.flac --model model --window 10 --hop 10 \\
      --location Berlin --record-time '2023-04-21 18:30:00' \\
      --output windows.csv --plot night.png
"""
_PLOT_FORMATS = (".png", ".pdf", ".svg")
# The suffix of each format of segments.
_SUFFIXES = {
    "csv": ".csv",
    "jsonl": ".jsonl",
    "audacity": ".txt",
    "raven": ".txt",
    "rttm": ".rttm",
    "kaleidoscope": ".csv",
    "label-studio": ".json",
}


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "timeline",
        "what is heard when in long recordings",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|MANIFEST",
        help="recordings, folders with recordings in and below them, and "
        "manifests (.csv), whose places and times are used; or URLs of files "
        "and folders",
    )
    add_model_options(parser)
    add_metadata_options(parser)
    add_window_options(parser, None, "half a window")
    parser.add_argument(
        "--format",
        choices=_SUFFIXES,
        help="form of the segments: csv (the default), jsonl, a label track "
        "of Audacity (of one recording), a selection table of Raven, RTTM, a "
        "table of Kaleidoscope, or pre-annotations of Label Studio",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file for the segments in the --format given; without one, CSV "
        "file for the posteriors of all windows",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE.png",
        help="plot to draw of one recording (.png, .pdf, .svg)",
    )
    add_skip_errors(parser)
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    suffix = _SUFFIXES[arguments.format or "csv"]
    check_output(arguments.output, (suffix,), arguments.inputs)
    check_output(arguments.plot, _PLOT_FORMATS)
    if arguments.hop and arguments.hop > arguments.window:
        raise CommandError(
            f"hop ({arguments.hop} s) must be at most window "
            f"({arguments.window} s)"
        )
    left_out = {}
    recordings = find_recordings(
        arguments.inputs, arguments.location, arguments.record_time, left_out
    )
    print_left_out(left_out)
    _check_names(arguments, [recording.file for recording in recordings])
    classifier = load_classifier(arguments)
    from ascmamba_modules.command_line.results import (
        run_settings,
        write_results,
    )
    from ascmamba_modules.inference.file_batches import (
        file_problems,
        raise_problems,
    )
    from ascmamba_modules.utils.files import printable

    if not arguments.skip_errors:
        files = [(r.file, r.record_time) for r in recordings]
        rate = classifier.audio_normalizer.sample_rate
        problems = file_problems(files, rate, longest=float("inf"))
        raise_problems([recording.file for recording in recordings], problems)
    if arguments.output is None:
        failed = 0
        with _segment_writer(sys.stdout, arguments.format or "csv") as write:
            for result in _classify(classifier, recordings, arguments):
                if sys.stdout.isatty():
                    result["file"] = printable(result["file"])
                write(result)
                sys.stdout.flush()
                failed += bool(result["problem"])
    else:
        settings = run_settings(arguments, classifier, recordings)
        for name in ("window", "hop", "format"):
            settings[name] = getattr(arguments, name)
        failed = write_results(
            arguments.output,
            settings,
            len(recordings),
            1,
            lambda done: _classify(classifier, recordings[done:], arguments),
            lambda results, path: _write(results, path, arguments.format),
        )
        print(f"ascmamba: written to {arguments.output}", file=sys.stderr)
    return report_failed(failed, len(recordings))


def _check_names(arguments, files):
    """Stops where a table would not tell one recording from another."""
    if len(files) > 1 and arguments.plot is not None:
        raise CommandError(f"--plot draws one recording, not {len(files)}")
    if len(files) > 1 and arguments.format == "audacity":
        raise CommandError(
            f"a label track of Audacity is of one recording, not {len(files)}; "
            "run the command for each, or take another --format"
        )
    named = defaultdict(list)
    for file in files:
        is_rttm = arguments.format == "rttm"
        named[_rttm_name(file) if is_rttm else file].append(file)
    for name, same in named.items():
        if len(same) > 1:
            raise CommandError(
                f"{' and '.join(same[:2])} would both be {name} in the table; "
                "rename one, leave it out, or take another --format"
            )


def _classify(classifier, recordings, arguments):
    """Yields a dict for each recording, its windows or segments in it."""
    from tqdm.auto import tqdm

    from ascmamba_modules.data.audio_files import inspect_audio
    from ascmamba_modules.inference.file_batches import file_problem
    from ascmamba_modules.utils.files import printable, replacing

    are_many = len(recordings) > 1
    rate = classifier.audio_normalizer.sample_rate
    bar = tqdm(
        recordings,
        "Recordings",
        disable=None if are_many else True,
        unit="file",
    )
    for recording in bar:
        with fetched_once():
            file, location, record_time = recording
            header = inspect_audio(file, decode=False)
            result = {"file": file, "rate": header.rate, "problem": ""}
            result["seconds"] = header.duration
            try:
                problem = file_problem(
                    *(file, record_time, rate, float("inf"), False)
                )
                if problem:
                    raise ValueError(problem)
                timeline = classifier.classify_long(
                    file,
                    arguments.window,
                    arguments.hop,
                    location,
                    record_time,
                    arguments.batch_size,
                    progress_bar=not are_many,
                )
            except ValueError as error:
                problem = str(error).removeprefix(f"{file}: ")
                if not arguments.skip_errors:
                    raise ValueError(f"{file}: {problem}") from None
                text = printable(f"ascmamba: {file}: {problem}")
                tqdm.write(text, file=sys.stderr)
                result["problem"] = problem
                yield result
                continue
            if arguments.plot is not None:
                with replacing(arguments.plot) as temporary:
                    timeline.plot().savefig(temporary)
            if arguments.output is not None and arguments.format is None:
                windows = timeline.table.round(6)
                result["windows"] = windows.to_dict("records")
            # To 1 ms, and each starts where the one before it ends.
            segments = timeline.segments().round(3)
            result["segments"] = segments.to_dict("records")
            yield result


def _write(results, path, form):
    from ascmamba_modules.command_line.results import open_table, row_writer

    with open_table(path) as file:
        write_row = row_writer(file)
        segments = (file, form) if form else (sys.stdout, "csv")
        with _segment_writer(*segments) as write:
            for result in results:
                for window in result.get("windows", ()):
                    write_row({"file": result["file"], **window})
                write(result)


@contextmanager
def _segment_writer(file, form):
    """Gives what writes the segments of one recording after another."""
    from ascmamba_modules.command_line.results import row_writer

    write_row = row_writer(file, "\t" if form == "raven" else ",")
    written, seconds = 0, 0.0  # of the recordings before

    def write(result):
        nonlocal written, seconds
        if result["problem"]:
            return
        if form == "label-studio":
            task = json.dumps(_label_studio_task(result))
            file.write(f",\n{task}" if written else task)
            written += 1
            return
        for segment in result["segments"]:
            written += 1
            row = {"file": result["file"], **segment}
            if form == "csv":
                write_row(row)
            elif form == "jsonl":
                # What is no UTF-8 becomes an escape, as JSON has it.
                file.write(json.dumps(row) + "\n")
            elif form == "raven":
                write_row(_raven_row(result, segment, written, seconds))
            elif form == "kaleidoscope":
                write_row(_kaleidoscope_row(result, segment))
            elif form == "rttm":
                file.write(_rttm_line(result["file"], **segment))
            else:
                label = " ".join(segment["scene_label"].split())
                file.write(f"{segment['start']}\t{segment['end']}\t{label}\n")
        seconds += result["seconds"]

    if form == "label-studio":
        file.write("[")
    yield write
    if form == "label-studio":
        file.write("]\n")


def _raven_row(result, segment, number, seconds):
    """A selection of Raven, whose times run on from file to file."""
    return {
        "Selection": number,
        "View": "Spectrogram 1",
        "Channel": 1,
        "Begin Time (s)": round(seconds + segment["start"], 3),
        "End Time (s)": round(seconds + segment["end"], 3),
        "Low Freq (Hz)": 0,
        "High Freq (Hz)": result["rate"] / 2,
        "Begin Path": absolute(result["file"]),
        "Begin File": os.path.basename(result["file"]),
        "File Offset (s)": segment["start"],
        "Annotation": segment["scene_label"],
        "Score": segment["probability"],
    }


def _kaleidoscope_row(result, segment):
    folder, name = os.path.split(absolute(result["file"]))
    return {
        "INDIR": folder,
        "FOLDER": "",
        "IN FILE": name,
        "OFFSET": segment["start"],
        "DURATION": round(segment["end"] - segment["start"], 3),
        "TOP1MATCH": segment["scene_label"],
    }


def _label_studio_task(result):
    """Regions of ``<Labels name="label" toName="audio">`` over ``<Audio
    name="audio" value="$audio">``."""
    regions = [
        {
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "original_length": result["seconds"],
            "value": {
                "start": segment["start"],
                "end": segment["end"],
                "labels": [segment["scene_label"]],
            },
            "score": segment["probability"],
        }
        for segment in result["segments"]
    ]
    prediction = {"model_version": "ascmamba", "result": regions}
    return {"data": {"audio": result["file"]}, "predictions": [prediction]}


def _rttm_name(file):
    return "_".join(Path(file).stem.split())


def _rttm_line(file, start, end, scene_label, probability):
    # Its fields hold no spaces.
    label = "_".join(scene_label.split())
    return (
        f"SPEAKER {_rttm_name(file)} 1 {start:.3f} {end - start:.3f} <NA> <NA> "
        f"{label} {probability} <NA>\n"
    )
