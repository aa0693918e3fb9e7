"""The model card: what a model was trained on, its scores, its limits.

Written as ``README.md`` with the front matter that model hubs read.
"""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

CARD = "README.md"
UNKNOWN = "not known"
# What is known of the licences of data sets, by the names that the prepare
# scripts give them.
DATA_LICENCES = {
    "TAU 2020 Mobile": "non-commercial use only (Zenodo 3819968)",
    "CAS 2023": "metadata MIT; audio " + UNKNOWN + " (Zenodo 10616533)",
    "CochlScene": UNKNOWN + " (Zenodo 7080122)",
    "ESC-10": "Creative Commons Attribution 3.0",
}
_FRONT_MATTER = """\
---
library_name: speechbrain
pipeline_tag: audio-classification
tags:
- speechbrain
- audio-classification
- acoustic-scene-classification
---
"""


def model_card(settings):
    """Writes the card of a model.

    Arguments
    ---------
    settings : dict
        Plain settings of a model folder; ``training`` in them may be None.

    Returns
    -------
    str
        Markdown with front matter.

    Example
    -------
    >>> model = {"class": "my_package.MyNet", "arguments": {}}
    >>> card = model_card(
    ...     {
    ...         "classes": ["Bus", "Bar"],
    ...         "parameters": 12,
    ...         "parts": {"model": model},
    ...         "training": None,
    ...     }
    ... )
    >>> card.splitlines()[1]
    'library_name: speechbrain'
    """
    training = settings["training"]
    parts = [
        _FRONT_MATTER + _introduction(settings),
        _usage("tokenizer" in settings["parts"]),
        *(_training(training) if training else [_NO_TRAINING]),
        _LICENCE,
    ]
    return "\n".join(parts)


_NO_TRAINING = f"""\
## Training data and scores

{UNKNOWN.capitalize()}: the model folder was written without them.
"""
_LICENCE = f"""\
## Licence

Of the weights: {UNKNOWN}; who publishes the model says so, here and as
`license:` in the front matter, within what the licences of the data allow.
"""


def _introduction(settings):
    model = settings["parts"]["model"]
    arguments = ", ".join(
        f"{k} {v}"
        for k, v in model.get("arguments", {}).items()
        if not isinstance(v, (dict, list))
    )
    name = str(model.get("class", model)).rpartition(".")[2]
    classes = ", ".join(settings["classes"])
    return f"""
# Acoustic scene classification: {name}

Tells the scene of a recording: {classes}.

| | |
|---|---|
| model | `{model.get("class", model)}` |
| parameters | {settings["parameters"]:,} |
| settings | {arguments or "defaults"} |
"""


def _usage(has_context):
    context = ""
    if has_context:
        context = ', location="Xi\'an", record_time="2023-04-21 18:30:00"'
    return f"""\
## Use

```python
from ascmamba_modules.inference import SceneClassifier

classifier = SceneClassifier.from_hparams(source="FOLDER or HUB/NAME")
out_prob, score, index, text_lab = classifier.classify_file(
    "clip.wav"{context}
)
```

This builds what `hyperparams.yaml` names. For a source that you do not trust
add `trusted=False`: only `settings.json` and the weights are then read, and
nothing of the folder runs.
"""


def _training(training):
    yield _data(training)
    yield _scores(training)
    yield _settings(training)
    yield _limits(training)


def _data(training):
    clips = training["clips"]
    splits = list(clips)
    lines = [
        f"| {name} | {' | '.join(str(clips[s][name]) for s in splits)} |"
        for name in clips["train"]
    ]
    sums = " | ".join(str(sum(clips[s].values())) for s in splits)
    table = "\n".join(
        [
            f"| class | {' | '.join(splits)} |",
            f"|---|{'---|' * len(splits)}",
            *lines,
            f"| all | {sums} |",
        ]
    )
    data = "\n".join(
        f"- {name}, {count} training clips: licence "
        f"{DATA_LICENCES.get(name, UNKNOWN)}"
        for name, count in all_datasets(training).items()
    )
    sources = ", ".join(
        f"{k} {v}" for k, v in training["label_sources"].items()
    )
    earlier = training["started_from"]
    start = "Weights started at random."
    if earlier:
        start = (
            f"Weights started from those of stage {earlier['stage']}, trained "
            f"on `{earlier['manifest']}`."
        )
    return f"""\
## Training data

Labelled clips of `{training["manifest"]}`:

{table}

Data sets, as the manifest names them:

{data}

Labels of the training clips: {sources}. {start}
"""


def all_datasets(training):
    """Training clips by data set, those of earlier stages included.

    Arguments
    ---------
    training : dict
        From :func:`ascmamba_modules.model_folder.training.describe_training`.

    Returns
    -------
    dict
        The largest number of clips that one stage took of each data set.
    """
    counts = {}
    while training:
        for name, count in training["datasets"].items():
            counts[name] = max(count, counts.get(name, 0))
        training = training["started_from"]
    return counts


def card_licence(folder):
    """Reads the licence that the card of a model states.

    Arguments
    ---------
    folder : str or Path
        The model folder.

    Returns
    -------
    str or None
        ``license`` of the front matter, None if there is none to read.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / CARD).write_text("---\\nlicense: mit\\n---\\n# A model")
    >>> card_licence(folder)
    'mit'
    """
    try:
        _, matter, _ = Path(folder, CARD).read_text("utf-8").split("---", 2)
        licence = YAML(typ="safe", pure=True).load(matter)["license"]
    except (OSError, ValueError, KeyError, TypeError, YAMLError):
        return None
    return str(licence)


def _scores(training):
    clips, seen = training["clips"], training["sessions_seen"]
    lines = [
        f"| {split} | {_percent(score)} | {sum(clips[split].values())} "
        f"| {_percent(seen.get(split))} |"
        for split, score in training["scores"].items()
        if split in clips
    ]
    if not lines:
        return "## Scores\n\nNot known: there were no clips to score on.\n"
    table = "\n".join(lines)
    chosen = "best validated" if "valid" in clips else "last"
    return f"""\
## Scores

Macro accuracy (mean of the classes' recalls), on the manifest's splits:

| split | macro accuracy | clips | of them from sessions in training |
|---|---|---|---|
{table}

The weights are the {chosen} ones of the training. Clips without a stated
session, place or time count as sessions of their own.
"""


def _percent(share):
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def _settings(training):
    settings = training["settings"]
    return "## Settings\n\n" + (
        ", ".join(f"{name} {value}" for name, value in settings.items()) + ".\n"
    )


def _limits(training):
    clips = training["clips"]
    absent = [name for name, n in clips["train"].items() if not n]
    limits = [
        "Every recording is given one of the classes above, whatever it is.",
        "Scores are those of recordings like the manifest's; other places, "
        "devices and times were not tried.",
    ]
    if absent:
        limits.append(f"No training clips of {', '.join(absent)}.")
    seen = training["sessions_seen"].get("valid")
    if seen:
        limits.append(
            f"{_percent(seen)} of the validation clips are from sessions that "
            "training has heard, which makes that score optimistic."
        )
    few = [s for s in clips if s != "train" and sum(clips[s].values()) < 200]
    limits += [
        f"One {s} clip more or less of the smallest class is "
        f"{100 / _smallest(clips[s]) / _present(clips[s]):.1f} points."
        for s in few
    ]
    return "## Limits\n\n" + "".join(f"- {limit}\n" for limit in limits)


def _smallest(counts):
    return min(n for n in counts.values() if n)


def _present(counts):
    return sum(n > 0 for n in counts.values())
