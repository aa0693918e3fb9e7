#!/usr/bin/env python3
"""Makes a small synthetic world: TAU, CochlScene and CAS as if downloaded.

    python -m demo.make_corpora demo/world

The files lie, and are named and listed, exactly as in the three downloads, so
that the preparation scripts run on them unchanged.  What is recorded where and
when is in ``world.py``, what it sounds like in ``scenes.py``.  Only
``truth.csv`` has no counterpart: the scenes of all CAS clips, to score
pseudo-labels by.  Scores on this world say nothing about real recordings.
"""

import argparse
import json
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import soundfile

from demo.scenes import synthesise
from demo.world import cas_table, cochlscene_table, tau_table

TAU = "TAU-urban-acoustic-scenes-2020-mobile-development"
COCHLSCENE = "CochlScene"
CAS = ("ICME2024_GC_ASC_dev", "ICME2024_GC_ASC_eval")
METADATA = "metadata"
TRUTH = "truth.csv"
SETTINGS = "demo_world.json"
_CORPORA = (TAU, COCHLSCENE, *CAS, METADATA)
_LEAST = {"tau_clips": 4, "cochlscene_clips": 3, "cas_clips": 15}


def make_demo_corpora(
    folder,
    tau_clips=12,
    cochlscene_clips=9,
    cas_clips=36,
    seconds=4.0,
    seed=0,
    workers=None,
):
    """Writes the three corpora, unless they are there.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to write: a new or empty folder, or an earlier demo world.  One
        that was not finished is made anew.
    tau_clips, cochlscene_clips : int
        Files of each of the 10 and 13 classes, at least 4 and 3.
    cas_clips : int
        Development clips of each of the 10 classes, at least 15; evaluation
        has an eighth of that.
    seconds : float
        Length of a clip, 0.1 to 60.
    seed : int
        The same seed gives the same files, whatever ``workers`` is.
    workers : int, optional
        Processes; None for one a core.

    Returns
    -------
    pandas.DataFrame
        A row for each corpus: clips, sessions (places in TAU, recordings in
        CochlScene) and cities (users in CochlScene).

    Raises
    ------
    ValueError
        For sizes out of range, and a folder that holds something else.
    """
    folder = Path(folder)
    settings = {
        "tau_clips": tau_clips,
        "cochlscene_clips": cochlscene_clips,
        "cas_clips": cas_clips,
        "seconds": seconds,
        "seed": seed,
    }
    _check_sizes(settings, workers)
    tau = tau_table(tau_clips, seed)
    cochlscene = cochlscene_table(cochlscene_clips, seed)
    cas = cas_table(cas_clips, seed)
    if _is_finished(folder, settings):
        print(f"{folder} holds this demo world already: nothing to do.")
    else:
        _prepare_folder(folder, settings)
        _write_audio(folder, tau, cochlscene, cas, seconds, seed, workers)
        _write_tau_lists(folder / TAU, tau)
        _write_cochlscene_list(folder / COCHLSCENE, cochlscene)
        _write_cas_lists(folder, cas)
        _write_settings(folder, settings, finished=True)
    parts = {
        "TAU 2020 Mobile": tau,
        "CochlScene": cochlscene,
        "CAS development": cas[cas["part"] == "dev"],
        "CAS evaluation": cas[cas["part"] == "eval"],
    }
    return pd.DataFrame(
        {
            "clips": {name: len(part) for name, part in parts.items()},
            "sessions": {k: v["session"].nunique() for k, v in parts.items()},
            "cities": {k: v["city"].nunique() for k, v in parts.items()},
        }
    )


def _check_sizes(settings, workers):
    for name, least in _LEAST.items():
        if settings[name] < least:
            raise ValueError(
                f"{name} is {settings[name]}, but at least {least} a class "
                "are needed."
            )
    if not 0.1 <= settings["seconds"] <= 60:
        raise ValueError(
            f"seconds is {settings['seconds']}, but clips are 0.1 to 60 s."
        )
    if settings["seed"] < 0:
        raise ValueError(f"seed is {settings['seed']}, but must not be < 0.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, but at least 1 is needed.")


def _is_finished(folder, settings):
    """Whether this very world is there; raises if something else is."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder.")
    if not any(folder.iterdir()):
        return False
    path = folder / SETTINGS
    if not path.exists():
        raise ValueError(
            f"{folder} is not empty and holds no demo world (no {SETTINGS}): "
            "give a new folder."
        )
    try:
        found = json.loads(path.read_text())
        finished = found.pop("finished")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} cannot be read: remove {folder}.")
    if finished and found != settings:
        changed = [
            f"{name} {found.get(name)} instead of {value}"
            for name, value in settings.items()
            if found.get(name) != value
        ]
        raise ValueError(
            f"{folder} holds a demo world of other settings "
            f"({', '.join(changed)}): give another folder or remove it."
        )
    return finished


def _prepare_folder(folder, settings):
    """Removes an unfinished world, and marks this one as unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_settings(folder, settings, finished=False)
    for name in _CORPORA:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / TRUTH).unlink(missing_ok=True)


def _write_settings(folder, settings, finished):
    text = json.dumps({**settings, "finished": finished}, indent=4)
    _write_text(folder / SETTINGS, text + "\n")


def _write_audio(folder, tau, cochlscene, cas, seconds, seed, workers):
    tau = tau.assign(root=TAU, rate=44100, subtype="PCM_24")
    cochlscene = cochlscene.assign(
        root=COCHLSCENE, rate=44100, subtype="PCM_16"
    )
    cas = cas.assign(root="", rate=48000, subtype="PCM_16")
    clips = pd.concat([tau, cochlscene, cas])
    paths = [folder / c.root / c.path for c in clips.itertuples()]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    columns = ["scene", "city", "session", "clip", "rate", "device", "subtype"]
    arguments = clips[columns].to_dict("records")
    write = partial(_write_clip, seconds=seconds, seed=seed)
    if workers == 1:
        for path, values in zip(paths, arguments):
            write(path, values)
        return
    with ProcessPoolExecutor(workers) as pool:
        # Goes through the results, so that errors are raised here.
        for _ in pool.map(write, paths, arguments, chunksize=4):
            pass


def _write_clip(path, values, seconds, seed):
    subtype = values.pop("subtype")
    samples = synthesise(**values, seconds=seconds, seed=seed)
    temporary = path.with_name(f".{path.name}.tmp")
    soundfile.write(
        temporary, samples, values["rate"], subtype=subtype, format="WAV"
    )
    temporary.replace(path)


def _write_tau_lists(root, table):
    meta = table[["path", "scene_label", "identifier", "source_label", "fold"]]
    meta = meta.rename(columns={"path": "filename"})
    meta = meta.sort_values("filename")
    setup = root / "evaluation_setup"
    setup.mkdir(exist_ok=True)
    for fold in ("train", "evaluate"):
        rows = meta[meta["fold"] == fold][["filename", "scene_label"]]
        _write_table(setup / f"fold1_{fold}.csv", rows)
    _write_table(setup / "fold1_test.csv", rows[["filename"]])
    _write_table(root / "meta.csv", meta.drop(columns="fold"))


def _write_cochlscene_list(root, table):
    rows = table[["path", "number", "split"]]
    _write_table(root / "Data_info.tsv", rows, header=False)


def _write_cas_lists(folder, table):
    (folder / METADATA).mkdir(exist_ok=True)
    columns = ["filename", "location", "record_time", "scene_label"]
    listed = table.assign(
        scene_label=table["scene_label"].where(table["labelled"], "")
    )
    for part in ("dev", "eval"):
        _write_table(
            folder / METADATA / f"APSIPA2025_GC_ASC_{part}_metadata.csv",
            listed[listed["part"] == part][columns],
            separator=",",
            encoding="utf-8-sig",
        )
    truth = table[["filename", "scene_label"]]
    _write_table(folder / TRUTH, truth, separator=",")


def _write_table(path, table, separator="\t", header=True, encoding="utf-8"):
    text = table.to_csv(sep=separator, header=header, index=False)
    _write_text(path, text, encoding)


def _write_text(path, text, encoding="utf-8"):
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding)
    temporary.replace(path)


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Sessions are places in TAU, recordings in CochlScene; cities "
        "are users in CochlScene.",
    )
    parser.add_argument(
        "folder", help="where to write: new, empty, or an earlier demo world"
    )
    parser.add_argument(
        "--tau-clips", type=int, default=12, help="a scene (default 12)"
    )
    parser.add_argument(
        "--cochlscene-clips", type=int, default=9, help="a class (default 9)"
    )
    parser.add_argument(
        "--cas-clips",
        type=int,
        default=36,
        help="for development, a class (default 36)",
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="a clip (default 4)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers",
        type=int,
        help="processes (default: one a core)",
    )
    options = vars(parser.parse_args(arguments))
    try:
        summary = make_demo_corpora(**options)
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        sys.exit(f"{error}")
    print(f"{options['folder']}:\n{summary.to_string()}")


if __name__ == "__main__":
    main(sys.argv[1:])
