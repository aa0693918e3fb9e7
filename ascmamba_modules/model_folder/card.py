"""The model card: what a model was trained on, its scores, its limits.

Written as ``README.md`` with the front matter that model hubs read.
"""

import re
from pathlib import Path

from ascmamba_modules.model_folder.config import read_text

CARD = "README.md"
UNKNOWN = "not known"
_TEMPLATE = Path(__file__).with_name("card.md")
_METRIC = "balanced_accuracy"
_FEW = 30  # training clips of a class
_SHOWN = 20  # classes named


def write_card(config, folder):
    """Writes the card of a model.

    Arguments
    ---------
    config : dict
        Content of ``config.json``; ``training`` in it may be None.
    folder : str or Path
        The model folder.

    Example
    -------
    >>> config = {"classes": ["Bus", "Bar"], "model": "my_package.MyNet"}
    >>> config |= {"parameters": 12, "takes_context": False, "training": None}
    >>> folder = getfixture("tmp_path")
    >>> write_card(config, folder)
    >>> card_licence(folder)
    'unknown'
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    training = config["training"]
    name = config["model"].rpartition(".")[2]
    results = [
        EvalResult(
            task_type="audio-classification",
            dataset_type=_slug(", ".join(training["datasets"][split])),
            dataset_name=", ".join(training["datasets"][split]),
            dataset_split=split,
            metric_type=_METRIC,
            metric_name="macro accuracy",
            metric_value=round(score, 4),
        )
        for split, score in (training or {"scores": {}})["scores"].items()
        if score is not None
    ]
    data = ModelCardData(
        license=config.get("licence", "unknown"),
        library_name="speechbrain",
        pipeline_tag="audio-classification",
        tags=["speechbrain", "acoustic-scene-classification"],
        datasets=[_slug(name) for name in all_datasets(training)] or None,
        metrics=[_METRIC] if results else None,
        model_name=name,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=_TEMPLATE,
        name=name,
        config=config,
        facts=facts(config),
        limits=limits(config),
    )
    card.save(Path(folder, CARD))


def facts(config):
    """What the card of a model states, in words.

    Arguments
    ---------
    config : dict
        Content of ``config.json``.

    Returns
    -------
    dict
        Texts by name.
    """
    training = config["training"]
    lines = {
        "classes": _classes(config["classes"]),
        "model": config["model"],
        "parameters": f"{config['parameters']:,}",
    }
    if not training:
        return {**lines, "training": UNKNOWN}
    lines["place and time"] = _place_and_time(config)
    lines["stage"] = f"{training['stage']}, on {training['manifest']}"
    earlier = training["started_from"]
    if earlier is not None:
        lines["weights from"] = (
            f"stage {earlier.get('stage', UNKNOWN)}, "
            f"on {earlier.get('manifest', UNKNOWN)}"
        )
    lines["clip length"] = _seconds(training["seconds"])
    for split, clips in training["clips"].items():
        # Unlabelled ones, too: a distillation learns from them.
        count = sum(training["datasets"][split].values())
        lines[split] = f"{count} clips"
        if split != "train":
            lines[split] += (
                f", macro accuracy {_percent(training['scores'][split])}, "
                "sessions heard in training: "
                f"{_percent(training['sessions_seen'][split])}"
            )
    # Folders of earlier versions have none.
    if temperature := training.get("temperature"):
        lines["calibration"] = (
            f"posteriors at a temperature of {temperature:.3f}, fitted on "
            "clips that training had not heard and contained in the weights"
        )
    lines["labels"] = ", ".join(
        f"{name} ({count})" for name, count in training["label_sources"].items()
    )
    licences = _through(training, "licences")
    for name, count in all_datasets(training).items():
        lines[f"data set {name}"] = (
            f"{count} training clips, licence {licences.get(name, UNKNOWN)}"
        )
    lines["settings"] = ", ".join(
        f"{name} {value}" for name, value in training["settings"].items()
    )
    return lines


def limits(config):
    """What a model cannot do, one sentence each.

    Arguments
    ---------
    config : dict
        Content of ``config.json``.

    Returns
    -------
    list
        Sentences.
    """
    training = config["training"]
    sentences = ["Every recording is given one of the classes, whatever it is."]
    if not training:
        return sentences
    clips = training["clips"]
    synthetic = [x for x in all_datasets(training) if "synthetic" in x.lower()]
    if synthetic:
        sentences.append(
            f"Trained on synthetic data ({', '.join(synthetic)}): its answers "
            "on real recordings mean nothing."
        )
    if config["takes_context"]:
        for kind, share in _through(training, "known").items():
            if not share:
                sentences.append(
                    f"No {kind} was known in training: one that is given "
                    "changes the answer, but means nothing to the model."
                )
    counts = clips["train"].values()
    absent = [name for name, count in clips["train"].items() if not count]
    if absent and any(counts):
        sentences.append(f"No training clips of {', '.join(absent)}.")
    elif any(counts) and min(counts) < _FEW:
        sentences.append(f"Only {min(counts)} training clips of a class.")
    for split, share in training["sessions_seen"].items():
        if share:
            sentences.append(
                f"{_percent(share)} of the {split} clips are from recording "
                "sessions that are in training, too: that score is optimistic."
            )
    for split, counts in clips.items():
        counts = [count for count in counts.values() if count]
        if split != "train" and 0 < sum(counts) < 200:
            sentences.append(
                f"One {split} clip more or less of the smallest class is "
                f"{100 / min(counts) / len(counts):.1f} points."
            )
    return sentences


def all_datasets(training):
    """Training clips by data set, those of earlier stages included.

    Arguments
    ---------
    training : dict or None
        From :func:`ascmamba_modules.model_folder.training.describe_training`.

    Returns
    -------
    dict
        The largest number of clips that one stage took of each data set.
    """
    counts = {}
    while training:
        for name, count in training["datasets"]["train"].items():
            counts[name] = max(count, counts.get(name, 0))
        training = training["started_from"]  # {} if nothing is known of it
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
        _, matter, _ = read_text(Path(folder, CARD)).split("---\n", 2)
    except (OSError, ValueError):
        return None
    found = re.search(r"^license: *(.+?) *$", matter, re.MULTILINE)
    return found and found[1]


def _classes(names):
    shown = ", ".join(names[:_SHOWN])
    rest = len(names) - _SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def _place_and_time(config):
    if not config["takes_context"]:
        return "not used"
    places = _through(config["training"], "known")["location"]
    times = _through(config["training"], "known")["record_time"]
    return (
        f"used; known in training: places of {_percent(places)}, times of "
        f"{_percent(times)} of the clips"
    )


def _through(training, name):
    """Merges a dictionary of a training with that of earlier stages."""
    merged = {}
    while training:
        for key, value in training[name].items():
            merged[key] = max(value, merged.get(key, value))
        training = training["started_from"]
    return merged


def _seconds(lengths):
    if not lengths:
        return UNKNOWN
    shortest, longest = (f"{seconds:.4g}" for seconds in lengths)
    return f"{shortest} s" if shortest == longest else f"{shortest}-{longest} s"


def _percent(share):
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def _slug(name):
    return re.sub(r"[^\w.]+", "-", name).strip("-").lower()
