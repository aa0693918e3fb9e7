"""Tables of an evaluation, for readers.

They are made of the long table of
:mod:`ascmamba_modules.evaluation.protocols`, and hold texts: accuracies in per
cent, with a star for fewer than 10 clips.
"""

import pandas as pd

from ascmamba_modules.plots.style import FEW_CLIPS

_SUMMARY = {
    "macro accuracy": ("all clips", "all clips", "macro_accuracy"),
    "audio only": ("audio and metadata", "audio only", "macro_accuracy"),
    "metadata only": ("audio and metadata", "metadata only", "macro_accuracy"),
    "Valid-Easy": ("difficulty", "Valid-Easy", "macro_accuracy"),
    "Valid-Hard": ("difficulty", "Valid-Hard", "macro_accuracy"),
    "shuffled": ("shuffled place and time", "100 %", "macro_accuracy"),
    "moved": ("unseen places", "100 %", "macro_accuracy"),
    "unseen city": ("seen in training", "unseen city", "macro_accuracy"),
    "log-loss": ("all clips", "all clips", "log_loss"),
    "ECE": ("all clips", "all clips", "expected_calibration_error"),
}


def find_rows(results, protocol, metric="macro_accuracy"):
    """Rows of a protocol and a metric, without those of single seeds."""
    return results[
        (results["protocol"] == protocol)
        & (results["metric"] == metric)
        & results["seed"].isna()
    ]


def summarise(results):
    """The main scores, a row a model; columns without any are left out."""
    table = {}
    for name, (protocol, condition, metric) in _SUMMARY.items():
        rows = find_rows(results, protocol, metric)
        rows = rows[rows["condition"] == condition]
        texts = [_text(row) for row in rows.itertuples()]
        if name == "macro accuracy":
            ends = rows[["lower", "upper"]].itertuples(index=False)
            texts = [
                f"{text} ({100 * low:.1f} to {100 * high:.1f})"
                if pd.notna(low)
                else text
                for text, (low, high) in zip(texts, ends)
            ]
        table[name] = pd.Series(texts, rows["model"], dtype=str)
    models = table["macro accuracy"].index
    table = pd.DataFrame(table).reindex(models).dropna(axis=1, how="all")
    return table.fillna("").reset_index()


def recall_table(results):
    """Recalls in the form of the paper's Table 3: a row for each model and
    condition, a column for each class and the average."""
    is_shuffled = results["protocol"] == "shuffled place and time"
    has_recalls = results["metric"].str.startswith("recall ")
    shares = results.loc[is_shuffled & has_recalls, "condition"]
    is_shuffled &= results["condition"].isin(shares) & results["seed"].isna()
    rows = results[
        results["protocol"].isin(["all clips", "difficulty"]) | is_shuffled
    ]
    shuffled = rows["condition"] + " shuffled"
    rows = rows.assign(condition=rows["condition"].mask(is_shuffled, shuffled))
    names = rows["metric"].str.removeprefix("recall ")
    rows = rows.assign(column=names.replace("macro_accuracy", "average"))
    is_recall = rows["metric"].str.startswith("recall ")
    is_average = rows["metric"] == "macro_accuracy"
    return spread(pd.concat([rows[is_recall], rows[is_average]]))


def calibration_table(results):
    """Log-loss, calibration error and temperature, by model and condition."""
    rows = results[results["protocol"] == "calibration"]
    short = {"log_loss": "log-loss", "expected_calibration_error": "ECE"}
    return spread(rows.assign(column=rows["metric"].replace(short)))


def audio_table(results, protocol):
    """Macro accuracies of changed audio, or how unknown sounds are told: a row
    a model, a column a change or a metric."""
    if protocol == "unknown":
        rows = results[results["protocol"] == protocol]
        columns = rows["metric"]
    else:
        rows = find_rows(results, protocol)
        columns = rows["condition"]
    table = spread(rows.assign(column=columns, condition=""))
    return table.drop(columns="condition")


def spread(rows):
    """A row for each model and condition, a column for each ``column``, in
    the order in which they come."""
    keys = ["model", "condition"]
    rows = rows.assign(text=[_text(row) for row in rows.itertuples()])
    table = rows.pivot(index=keys, columns="column", values="text")
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    table = table.loc[order, rows["column"].unique()].fillna("")
    return table.reset_index().rename_axis(columns=None)


def pair_table(results):
    """Differences of pairs of models in points of macro accuracy, with their
    intervals and p-values."""
    rows = find_rows(results, "paired test", "macro_accuracy difference")
    p_values = find_rows(results, "paired test", "p_value")["value"]
    return pd.DataFrame(
        {
            "models": rows["model"] + " " + rows["condition"],
            "difference": (100 * rows["value"]).map("{:+.1f}".format),
            "95 % interval": [
                f"{100 * low:+.1f} to {100 * high:+.1f}"
                for low, high in zip(rows["lower"], rows["upper"])
            ],
            "p-value": p_values.map(_p_text).to_numpy(),
        }
    )


def headline(results):
    """Which model has the highest macro accuracy, and whether the interval of
    its lead over the second excludes zero."""
    rows = find_rows(results, "all clips")
    rows = rows.sort_values("value", ascending=False, kind="stable")
    first, *others = rows.itertuples()
    score = f"{100 * first.value:.1f} %"
    if pd.notna(first.lower):
        score += (
            f" (95 % interval {100 * first.lower:.1f} to "
            f"{100 * first.upper:.1f})"
        )
    if not others:
        return f"{first.model}: macro accuracy {score}."
    second = others[0]
    text = (
        f"{first.model} has the highest macro accuracy: {score}; next is "
        f"{second.model} with {100 * second.value:.1f} %. "
    )
    pairs = find_rows(results, "paired test", "macro_accuracy difference")
    for pair, p_value in zip(
        pairs.itertuples(),
        find_rows(results, "paired test", "p_value")["value"],
    ):
        ends = [pair.lower, pair.upper]  # of pair.model's lead
        names = [pair.model, pair.condition.removeprefix("against ")]
        if names == [second.model, first.model]:
            ends = [-pair.upper, -pair.lower]
        elif names != [first.model, second.model]:
            continue
        points = "{:+.1f} to {:+.1f} points".format(*(100 * x for x in ends))
        text += f"The 95 % interval of this lead, {points}, "
        text += "excludes zero" if ends[0] > 0 else "includes zero"
        return f"{text}; p-value {_p_text(p_value)}."
    return f"{text}All clips are of one session, so this lead has no interval."


def _p_text(value):
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _text(row):
    if pd.isna(row.value):
        return "no clips"
    if row.metric in ("log_loss", "temperature", "classes in a 90 % set"):
        text = f"{row.value:.2f}"
    else:
        text = f"{100 * row.value:.1f}"
    return text + "*" * (row.clips < FEW_CLIPS)
