"""A baseline that uses place and time alone, no audio."""

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from ascmamba_modules.data.sessions import find_places, find_times


def classify_by_metadata(training, clips):
    """Predicts classes with a metadata-only decision tree.

    The tree is grown on place (one input a city), day and time of day until
    it fits all training clips.  Within a session of training it predicts the
    session's class, elsewhere mostly that of the city's nearest recordings; in
    a city that training has not seen, only days and times are left.  It shows
    what a model can do without audio, not the best that can be done.

    Arguments
    ---------
    training, clips : pandas.DataFrame
        With the columns of :mod:`ascmamba_modules.data.manifest`; all training
        clips are labelled.

    Returns
    -------
    numpy.ndarray
        Classes (clips).

    Example
    -------
    >>> training = pd.DataFrame({"ID": ["a", "b"], "location": "Hefei"})
    >>> training["record_time"] = ["2023-05-21 10:08:52", "2023-05-21 18:00:00"]
    >>> training["scene_label"] = ["Bus", "Bar"]
    >>> clips = training.assign(record_time="2023-05-21 09:58:52")
    >>> list(classify_by_metadata(training, clips))
    ['Bus', 'Bus']
    """
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["place"]),
            remainder="passthrough",
        ),
        DecisionTreeClassifier(random_state=0),
    )
    places = find_places(pd.concat([training, clips]))
    n = len(training)
    model.fit(_inputs(training, places[:n]), training["scene_label"])
    return model.predict(_inputs(clips, places[n:]))


def _inputs(table, places):
    times = find_times(table)
    day = times["day"] - pd.Timestamp("1970-01-01")
    return pd.DataFrame(
        {
            "place": places.to_numpy(),
            "day": day.dt.days.to_numpy(dtype=float),
            "second": (times["time"] - times["day"])
            .dt.total_seconds()
            .to_numpy(),
        }
    )
