"""``ascmamba classify``: labels of many recordings."""

import sys

from ascmamba_modules.command_line.options import (
    CommandError,
    add_metadata_options,
    add_model_options,
    add_skip_errors,
    add_subparser,
    check_output,
    load_classifier,
    positive,
    process_share,
    report_failed,
)
from ascmamba_modules.command_line.recordings import (
    find_recordings,
    print_left_out,
)
from ascmamba_modules.utils.files import printable

_DESCRIPTION = """\
Classifies recordings of up to five minutes, each as a whole ('ascmamba
timeline' takes longer ones).  They may be of any rate and channel count.

Without --output, file, scene_label, probability and problem are printed as
CSV.  An output file has the posteriors of all classes too.  While the command
runs, its results are in OUTPUT.part, one line of JSON a file; if it is killed,
the same command goes on from there, and the output is the same as of one run.
That goes for all three formats; Parquet is written from the lines in the end
and needs pyarrow.

Under torchrun, on one machine or several with the same file system, processes
share the files, each with a GPU of its own for --device cuda.
"""
_EXAMPLES = """\
  ascmamba classify clip.wav --model results/finetune/1986/model
  ascmamba classify recordings/ --model model --output labels.csv \\
      --location Berlin --record-time '2023-04-21 18:30:00' --skip-errors
  ascmamba classify manifest.csv --model model --output labels.parquet \\
      --device cuda --precision bf16 --batch-size 64
  torchrun --nproc_per_node 4 -m ascmamba_modules.command_line classify \\
      recordings/ --model model --output labels.csv --device cuda --skip-errors
"""
_FORMATS = (".csv", ".jsonl", ".parquet")
_DIGITS = 6


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "classify",
        "labels of recordings",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|MANIFEST",
        help="audio files, folders with audio files in and below them, and "
        "manifests (.csv), whose places and times are used; or URLs of files "
        "and folders",
    )
    add_model_options(parser)
    add_metadata_options(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"file to write, ending in {', '.join(_FORMATS)}",
    )
    add_skip_errors(parser)
    parser.add_argument(
        "--unknown",
        action="store_true",
        help="label recordings unlike those of all classes 'unknown'",
    )
    parser.add_argument(
        "--coverage",
        type=positive(float),
        metavar="C",
        help="also list the possible classes, the fewest that hold the true "
        "one for this share of the recordings, e.g. 0.9",
    )
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    check_output(arguments.output, _FORMATS, arguments.inputs)
    if arguments.output is None and process_share()[1] > 1:
        raise CommandError("several processes need --output, to write to")
    left_out = {}
    recordings = find_recordings(
        arguments.inputs, arguments.location, arguments.record_time, left_out
    )
    try:
        if arguments.output is None:
            failed = _print(arguments, recordings)
        else:
            failed = _write(arguments, recordings)
    finally:
        print_left_out(left_out)
    return report_failed(failed, len(recordings))


def _print(arguments, recordings):
    from ascmamba_modules.command_line.results import write_rows

    classifier = load_classifier(arguments)
    failed = 0

    def rows():
        nonlocal failed
        # On a terminal the bar would stand between the lines.
        bar = not sys.stdout.isatty()
        for file in _classify(classifier, recordings, arguments, bar):
            failed += bool(file.problem)
            row = _row(file, [], arguments.coverage)
            if sys.stdout.isatty():
                row["file"] = printable(row["file"])
            yield row
            sys.stdout.flush()

    write_rows(rows(), sys.stdout)
    return failed


def _write(arguments, recordings):
    from ascmamba_modules.command_line.results import (
        check_format,
        run_settings,
        write_results,
        write_share,
    )

    check_format(arguments.output)
    classifier = load_classifier(arguments)
    rank, world = process_share()
    own = recordings[rank::world]

    def rows_from(done):
        if done:
            print(
                f"ascmamba: {done} of {len(own)} files were classified by an "
                "earlier run",
                file=sys.stderr,
            )
        for file in _classify(classifier, own[done:], arguments, rank == 0):
            yield _row(file, classifier.classes, arguments.coverage)

    settings = run_settings(arguments, classifier, recordings)
    settings["coverage"] = arguments.coverage
    settings["answer for unknown sounds"] = arguments.unknown
    write = write_share if world > 1 else write_results
    failed = write(
        arguments.output,
        settings,
        len(recordings),
        arguments.batch_size,
        rows_from,
    )
    if rank > 0:
        return 0
    print(f"ascmamba: written to {arguments.output}", file=sys.stderr)
    return failed


def _classify(classifier, recordings, arguments, progress_bar):
    """Yields the results, problems reported."""
    from tqdm.auto import tqdm

    files = classifier.classify_files(
        [recording.file for recording in recordings],
        [recording.location for recording in recordings],
        [recording.record_time for recording in recordings],
        arguments.batch_size,
        arguments.skip_errors,
        progress_bar,
        arguments.unknown,
        arguments.coverage,
    )
    for file in files:
        if file.problem:
            text = f"ascmamba: {file.path}: {file.problem}"
            tqdm.write(printable(text), file=sys.stderr)
        yield file


def _row(file, classes, coverage):
    from ascmamba_modules.inference.timeline import posterior_columns

    row = {
        "file": file.path,
        "scene_label": file.text_lab,
        "probability": None,
        "problem": file.problem,
    }
    if coverage is not None:
        row["possible"] = "; ".join(file.possible)
    posteriors = [None] * len(classes)
    if not file.problem:
        posteriors = file.out_prob.double().exp().tolist()
        row["probability"] = round(max(posteriors), _DIGITS)
        posteriors = [round(value, _DIGITS) for value in posteriors]
    return {**row, **dict(zip(posterior_columns(classes, row), posteriors))}
