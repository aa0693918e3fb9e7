"""Tables of an evaluation, for readers."""

import pandas as pd


def summarise(results):
    """The scores that one asks for first, a row a model.

    Arguments
    ---------
    results : pandas.DataFrame
        See :mod:`ascmamba_modules.evaluation.protocols`.

    Returns
    -------
    pandas.DataFrame
        Texts; accuracies in per cent; columns without any score are left
        out.
    """
    whole = {
        "macro accuracy": ("all clips", "all clips", "macro_accuracy"),
        "audio only": ("audio and metadata", "audio only", "macro_accuracy"),
        "metadata only": (
            "audio and metadata",
            "metadata only",
            "macro_accuracy",
        ),
        "Valid-Easy": ("difficulty", "Valid-Easy", "macro_accuracy"),
        "Valid-Hard": ("difficulty", "Valid-Hard", "macro_accuracy"),
        "shuffled": (
            "shuffled place and time",
            "100 %",
            "macro_accuracy",
        ),
        "moved": ("unseen places", "100 %", "macro_accuracy"),
        "unseen city": ("seen in training", "unseen city", "macro_accuracy"),
        "log-loss": ("all clips", "all clips", "log_loss"),
        "ECE": (
            "all clips",
            "all clips",
            "expected_calibration_error",
        ),
    }
    results = results[results["seed"].isna()]
    rows = []
    for model in results.loc[results["protocol"] == "all clips", "model"]:
        if rows and rows[-1]["model"] == model:
            continue
        row = {"model": model}
        for name, (protocol, condition, metric) in whole.items():
            chosen = results[
                (results["model"] == model)
                & (results["protocol"] == protocol)
                & (results["condition"] == condition)
                & (results["metric"] == metric)
            ]
            row[name] = ""
            if len(chosen):
                row[name] = _shown(chosen.iloc[0], name)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]


def _shown(row, name):
    if name == "log-loss":
        return f"{row['value']:.2f}"
    text = f"{100 * row['value']:.1f}"
    if name == "macro accuracy" and pd.notna(row["lower"]):
        text += f" ({100 * row['lower']:.1f} to {100 * row['upper']:.1f})"
    return text


def recall_table(results):
    """Recalls of the classes in the form of the paper's Table 3.

    Arguments
    ---------
    results : pandas.DataFrame
        See :mod:`ascmamba_modules.evaluation.protocols`.

    Returns
    -------
    pandas.DataFrame
        Texts, in per cent: a row for each condition and model, a column for
        each class and the average.
    """
    is_recall = results["metric"].str.startswith("recall ")
    whole = results["metric"] == "macro_accuracy"
    shown = results["protocol"].isin(["all clips", "difficulty"])
    rows = results[shown & (is_recall | whole)].copy()
    rows["metric"] = (
        rows["metric"]
        .str.removeprefix("recall ")
        .replace("macro_accuracy", "average")
    )
    table = one_row_each(rows, ["condition", "model"])
    names = [name for name in table if name != "average"] + ["average"]
    table = table[names]
    numbers = table.columns[2:]
    table[numbers] = table[numbers].map(
        lambda value: "no clips" if pd.isna(value) else f"{100 * value:.1f}"
    )
    return table


def one_row_each(rows, keys):
    """Spreads long rows.

    Arguments
    ---------
    rows : pandas.DataFrame
        See :mod:`ascmamba_modules.evaluation.protocols`.
    keys : list
        Columns.

    Returns
    -------
    pandas.DataFrame
        A row for each value of the keys, a column for each metric, in the
        order in which they come.
    """
    table = rows.pivot_table(
        "value", keys, "metric", sort=False, dropna=False, observed=True
    )
    table = table.reindex(columns=rows["metric"].unique())
    present = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    return table.reindex(present).reset_index().rename_axis(columns=None)


def curve_table(rows):
    """Means over seeds by the share of changed clips.

    Arguments
    ---------
    rows : pandas.DataFrame
        Of one protocol, see
        :func:`ascmamba_modules.evaluation.protocols.score_changed`.

    Returns
    -------
    pandas.DataFrame
        As :func:`~ascmamba_modules.plots.plot_curves` takes, x in
        per cent; and the number of clips.
    """
    rows = rows[rows["seed"].isna()]
    return pd.DataFrame(
        {
            "model": rows["model"],
            "x": rows["condition"].str.removesuffix(" %").astype(float),
            "mean": rows["value"],
            "lower": rows["lower"],
            "upper": rows["upper"],
            "clips": rows["clips"],
        }
    )


def pair_table(rows):
    """Pairs of models, their difference and its p-value.

    Arguments
    ---------
    rows : pandas.DataFrame
        From :func:`ascmamba_modules.evaluation.protocols.compare_pairs`.

    Returns
    -------
    pandas.DataFrame
        Texts; differences in points of macro accuracy.
    """
    p_values = rows[rows["metric"] == "p_value"]["value"].to_numpy()
    rows = rows[rows["metric"] != "p_value"]
    return pd.DataFrame(
        {
            "models": rows["model"] + " " + rows["condition"],
            "difference": (100 * rows["value"]).map("{:+.1f}".format),
            "from": (100 * rows["lower"]).map("{:+.1f}".format),
            "to": (100 * rows["upper"]).map("{:+.1f}".format),
            "p-value": [f"{value:.3f}" for value in p_values],
        }
    )
