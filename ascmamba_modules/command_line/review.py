"""``ascmamba review``: the clips whose labels are worth a person's minute."""

import sys

from ascmamba_modules.command_line.options import (
    CommandError,
    add_model_options,
    add_skip_errors,
    add_subparser,
    check_output,
    load_classifier,
    positive,
    report_failed,
)
from ascmamba_modules.command_line.recordings import (
    find_recordings,
    name_problem,
    print_left_out,
)

_DESCRIPTION = """\
Chooses the recordings whose labels would teach a model most, and writes a page
to label them by ear, one HTML file that works offline: a key a class, and
a button that saves the labels as CSV, for 'ascmamba manifest --labels'.

With the model's own classes it takes recordings that the model is least sure of
and that differ from each other; with --classes that the model does not have,
recordings that differ from each other.
"""
_EXAMPLES = """\
  ascmamba review recordings/ --model my_model --output review.html
  ascmamba review recordings/ --classes 'Bar,Street,Park' --number 60 \\
      --output review.html
  ascmamba manifest --labels review.csv --output my.csv
"""


def add_parser(subparsers):
    """Describes the arguments; returns the parser."""
    parser = add_subparser(
        subparsers,
        "review",
        "the clips worth labelling by ear, as a page",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER|MANIFEST",
        help="recordings of up to five minutes, as for 'ascmamba classify'",
    )
    add_model_options(parser)
    add_skip_errors(parser)
    parser.add_argument(
        "--classes",
        metavar="A,B",
        help="classes to choose from (default: the model's; the model is then "
        "sound_tags unless one is named)",
    )
    parser.add_argument(
        "--number",
        type=positive(int),
        default=40,
        metavar="N",
        help="recordings to label (default: 40)",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE.html", help="page to write"
    )
    return parser


def run(arguments):
    """Runs the subcommand; returns the exit code."""
    check_output(arguments.output, (".html",))
    left_out = {}
    recordings = find_recordings(arguments.inputs, left_out=left_out)
    print_left_out(left_out)
    classes = None
    if arguments.classes is not None:
        classes = [name.strip() for name in arguments.classes.split(",")]
        arguments.model = arguments.model or "sound_tags"
        if len({*classes} - {""}) != len(classes) or len(classes) < 2:
            raise CommandError(
                f"--classes {arguments.classes}: name two or more, each once"
            )
    classifier = load_classifier(arguments)
    import numpy as np
    from tqdm.auto import tqdm

    from ascmamba_modules.evaluation.review import choose_clips, write_review
    from ascmamba_modules.inference.file_batches import (
        file_problems,
        raise_problems,
    )
    from ascmamba_modules.teaching import embed_files
    from ascmamba_modules.utils.files import printable

    files = [recording.file for recording in recordings]
    rate = classifier.audio_normalizer.sample_rate
    problems = file_problems([(file, None) for file in files], rate)
    problems = [p or name_problem(f) for f, p in zip(files, problems)]
    if not arguments.skip_errors:
        raise_problems(files, problems)
    for file, problem in zip(files, problems):
        if problem:
            text = printable(f"ascmamba: {file}: {problem}")
            print(text, file=sys.stderr)
    files = [f for f, problem in zip(files, problems) if not problem]
    if not files:
        raise CommandError("no file can be used")
    bar = tqdm(files, "Classifying", unit="file", disable=None)
    if classes is None or {*classes} <= {*classifier.classes}:
        embeddings, log_posteriors = embed_files(classifier, bar, True)
        posteriors = np.exp(log_posteriors)
    else:
        embeddings, posteriors = embed_files(classifier, bar), None
    chosen = choose_clips(embeddings, posteriors, arguments.number)
    classes = classes or classifier.classes
    write_review(arguments.output, [files[i] for i in chosen], classes)
    print(
        f"ascmamba: {len(chosen)} of {len(files)} recordings; open "
        f"{arguments.output} in a browser",
        file=sys.stderr,
    )
    return report_failed(len(recordings) - len(files), len(recordings))
