"""Own classes from a few clips: a linear classifier on a model's embedding."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ruamel.yaml import YAML
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedGroupKFold,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speechbrain.dataio.encoder import CategoricalEncoder

from ascmamba_modules.data.sessions import find_sessions
from ascmamba_modules.evaluation.calibration import (
    apply_temperature,
    fit_temperature,
)
from ascmamba_modules.inference.file_batches import (
    batches_of_files,
    raise_problems,
)
from ascmamba_modules.inference.reliance import fit_reliance, save_reliance
from ascmamba_modules.model_folder.config import find_model, read_config
from ascmamba_modules.model_folder.folder import write_model_folder
from ascmamba_modules.model_folder.training import describe_training

STAGE = "teach"
SPLIT = "cross-validation"
_BATCH = 16  # files read ahead
_STRENGTHS = np.logspace(-4, 2, 13)  # scikit-learn's C
_FOLDS = 5


def teach(classifier, source, table, folder):
    """Gives a model other classes, learned from a few clips.

    The model's weights stay; its classifier is replaced by a logistic
    regression on the embeddings, regularised as works best on recordings that
    were left out.  Clips are heard with their place and time, where those are
    known and the model uses them.

    Arguments
    ---------
    classifier : ascmamba_modules.inference.SceneClassifier
        The model; it is not changed.
    source : str or Path
        The model's folder.
    table : pandas.DataFrame
        The clips, with the columns of
        :mod:`ascmamba_modules.data.manifest`; a clip without a session is a
        recording of its own.
    folder : str or Path
        The model folder to write.

    Returns
    -------
    float
        Macro accuracy (0 to 1) in cross-validation over recordings.  The
        regularisation was chosen by it, so that it is slightly optimistic.

    Raises
    ------
    ValueError
        For fewer than two classes, a class of one recording only, files that
        cannot be used, or a model whose classifier cannot be replaced.
    """
    classes = sorted(set(table["scene_label"]))
    sessions = find_sessions(table)
    _check_clips(table, classes, sessions)
    model = classifier.mods.model
    settings = YAML().load(
        (find_model(source) / "hyperparams.yaml").read_text("utf-8")
    )
    is_linear = isinstance(getattr(model, "classifier", None), torch.nn.Linear)
    if not is_linear or hasattr(model, "coarse_classifier"):
        raise ValueError(
            f"{source}: the classifier of {type(model).__name__} is not one "
            "linear layer, so it cannot be replaced; take another model."
        )
    embeddings = embed_files(classifier, table)
    search = fit(embeddings, table["scene_label"], sessions)
    score = float(search.best_score_)
    # Of classifiers that had not heard the clip's recording.
    log_posteriors = cross_val_predict(
        *(search.best_estimator_, embeddings, table["scene_label"]),
        groups=sessions,
        cv=search.cv,
        method="predict_log_proba",
    )
    targets = table["scene_label"].map(classes.index).to_numpy()
    temperature = fit_temperature(targets, log_posteriors)
    log_posteriors = apply_temperature(log_posteriors, temperature)
    settings["model"]["n_classes"] = len(classes)
    taught = copy.deepcopy(model)
    taught.classifier = linear_layer(search.best_estimator_)
    with torch.no_grad():
        for parameter in taught.classifier.parameters():
            parameter /= temperature
    label_encoder = CategoricalEncoder()
    label_encoder.update_from_iterable(classes)
    hparams = {
        **vars(classifier.hparams),
        "model": taught,
        "label_encoder": label_encoder,
    }
    training = describe_training(
        {"stage": STAGE, "manifest": "clips", "scene_labels": classes},
        {"train": table, SPLIT: table},
        {SPLIT: score},
        started_from=read_config(find_model(source))["training"] or {},
        temperature=temperature,
    )
    # No clip was scored by a classifier that had heard its recording.
    training["sessions_seen"] = {SPLIT: 0.0}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "hyperparams.yaml")
        YAML().dump(settings, path)
        write_model_folder(hparams, path, folder, training)
    reliance = fit_reliance(embeddings, log_posteriors, targets, sessions)
    save_reliance(reliance, folder)
    return score


def _check_clips(table, classes, sessions):
    if len(classes) < 2:
        raise ValueError(
            "Clips of two classes or more are needed, these are of: "
            f"{', '.join(classes) or 'none'}."
        )
    counts = sessions.groupby(table["scene_label"]).nunique()
    lone = [f"'{name}'" for name in classes if counts[name] < 2]
    if lone:
        raise ValueError(
            f"{', '.join(lone)}: clips of one recording only; give clips of at "
            "least two, so that one can be left out to check the other."
        )


def embed_files(classifier, files, classify=False):
    """Embeds audio files, each as a whole and on its own.

    Arguments
    ---------
    classifier : ascmamba_modules.inference.SceneClassifier
        The model.
    files : pandas.DataFrame or iterable
        A table with the columns wav, location and record_time, empty where
        unknown, or paths of files whose place and time are unknown.
    classify : bool
        Whether to classify them, too.

    Returns
    -------
    numpy.ndarray
        (files, embedding_size); with ``classify`` a tuple of it and the
        log-posteriors (files, classes).

    Raises
    ------
    ValueError
        If files cannot be used, with the reasons, or the model has no
        embeddings.
    """
    if isinstance(files, pd.DataFrame):
        columns = ["wav", "location", "record_time"]
        files = files[columns].itertuples(index=False)
    else:
        files = ((str(path), None, None) for path in files)
    normalizer = classifier.audio_normalizer
    embeddings, log_posteriors, problems, names = [], [], [], []
    for batch in batches_of_files(files, normalizer, _BATCH):
        for clip in batch:
            names.append(clip.path)
            problems.append(clip.problem)
            if clip.problem:
                continue
            place = (None, clip.location, clip.record_time)
            embedding = classifier.embed_batch(clip.waveform, *place)
            embeddings.append(embedding[0].cpu().numpy())
            if not np.isfinite(embeddings[-1]).all():
                problems[-1] = "its embedding is not finite"
            elif classify:
                out_prob, *_ = classifier.classify_batch(clip.waveform, *place)
                log_posteriors.append(out_prob[0].cpu().numpy())
    raise_problems(names, problems)
    if classify:
        return np.stack(embeddings), np.stack(log_posteriors)
    return np.stack(embeddings)


def fit(embeddings, labels, groups):
    """Fits a logistic regression, its regularisation by leaving groups out.

    Arguments
    ---------
    embeddings : numpy.ndarray
        (clips, embedding_size).
    labels, groups : sequence
        Class of each clip, and what must not be split.

    Returns
    -------
    sklearn.model_selection.GridSearchCV
        Fitted on all clips; ``best_score_`` is the macro accuracy.
    """
    fewest = groups.groupby(labels).nunique().min()
    return GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": _STRENGTHS},
        scoring="balanced_accuracy",
        cv=StratifiedGroupKFold(
            min(_FOLDS, int(fewest)), shuffle=True, random_state=0
        ),
    ).fit(embeddings, labels, groups=groups)


def linear_layer(pipeline):
    """Writes a fitted standardisation and logistic regression as one layer.

    Arguments
    ---------
    pipeline : sklearn.pipeline.Pipeline
        StandardScaler and LogisticRegression.

    Returns
    -------
    torch.nn.Linear
        Logits whose softmax are the probabilities.

    Example
    -------
    >>> x = np.array([[0.0, 1.0], [1.0, 1.0], [4.0, 2.0], [5.0, 2.0]])
    >>> pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    >>> _ = pipeline.fit(x, ["a", "a", "b", "b"])
    >>> layer = linear_layer(pipeline)
    >>> posteriors = layer(torch.tensor(x).float()).softmax(-1)
    >>> np.allclose(posteriors.detach(), pipeline.predict_proba(x), atol=1e-5)
    True
    """
    scaler, regression = pipeline[0], pipeline[-1]
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes it describes the second alone
        weight = np.concatenate([0 * weight, weight])
        bias = np.concatenate([0 * bias, bias])
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    layer = torch.nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer
