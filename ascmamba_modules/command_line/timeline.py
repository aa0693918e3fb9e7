"""``ascmamba timeline``: what is heard when in a long recording."""

import sys

from ascmamba_modules.command_line.options import (
    add_metadata_options,
    add_model_options,
    add_subparser,
    check_output,
    load_classifier,
    positive,
)

_DESCRIPTION = """\
Classifies a recording of any length in windows; memory does not grow with the
length.  Prints the segments of one scene each as CSV: start and end in seconds,
scene_label, and probability, the mean posterior.
"""
_EXAMPLES = """\
  ascmamba timeline night.flac --model results/finetune/1986/model
  ascmamba timeline night.flac --model model --window 10 --hop 10 \\
      --location Berlin --record-time '2023-04-21 18:30:00' \\
      --output windows.csv --plot night.png
"""
_PLOT_FORMATS = (".png", ".pdf", ".svg")


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "timeline",
        "what is heard when in a long recording",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE", help="the recording")
    add_model_options(parser)
    add_metadata_options(parser)
    parser.add_argument(
        "--window",
        type=positive(float),
        default=10.0,
        metavar="SECONDS",
        help="length of a window, best that of the clips in training "
        "(default: 10)",
    )
    parser.add_argument(
        "--hop",
        type=positive(float),
        metavar="SECONDS",
        help="shift from one window to the next (default: half a window)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE.csv",
        help="file for the posteriors of all windows",
    )
    parser.add_argument(
        "--plot", metavar="FILE.png", help="plot to draw (.png, .pdf, .svg)"
    )
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    check_output(arguments.output, (".csv",))
    check_output(arguments.plot, _PLOT_FORMATS)
    classifier = load_classifier(arguments)
    from ascmamba_modules.utils.files import replacing, safe_cell, write_csv

    timeline = classifier.classify_long(
        arguments.file,
        arguments.window,
        arguments.hop,
        arguments.location,
        arguments.record_time,
        arguments.batch_size,
    )
    if arguments.output is not None:
        table = timeline.table.round(6).rename(columns=safe_cell)
        write_csv(table.map(safe_cell), arguments.output)
    if arguments.plot is not None:
        with replacing(arguments.plot) as temporary:
            timeline.plot().savefig(temporary)
    segments = timeline.segments().round(3).map(safe_cell)
    segments.to_csv(sys.stdout, index=False, lineterminator="\n")
    return 0
