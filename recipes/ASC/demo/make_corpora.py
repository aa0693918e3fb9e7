#!/usr/bin/env python3
"""Makes small synthetic copies of TAU, CochlScene and CAS.

    python -m demo.make_corpora demo/corpora

The files are laid out, named and listed as in the three downloads, so that the
preparation scripts run on them unchanged.  Two files have no counterpart:
``truth.csv`` has the scenes of all CAS clips, and ``SYNTHETIC.txt`` tells the
preparation scripts to call the clips synthetic in the manifests.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from demo.scenes import synthesise

TAU = "TAU-urban-acoustic-scenes-2020-mobile-development"
TAU_SCENES = {
    "airport": "Airport",
    "bus": "Bus",
    "metro": "Metro",
    "metro_station": "Metro station",
    "park": "Urban park",
    "public_square": "Public square",
    "shopping_mall": "Shopping mall",
    "street_pedestrian": "Pedestrian street",
    "street_traffic": "Traffic street",
    "tram": "Tram",
}
TAU_CITIES = ("helsinki", "lisbon", "lyon", "paris", "stockholm", "vienna")
TAU_DEVICES = ("b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
TAU_UNSEEN_DEVICES = ("s4", "s5", "s6")  # in no training fold
COCHLSCENE_SCENES = {
    "Bus": "Bus",
    "Cafe": "Cafe",
    "Car": "Car",
    "CrowdedIndoor": "Crowded indoor",
    "Elevator": "Elevator",
    "Kitchen": "Kitchen",
    "Park": "Urban park",
    "ResidentialArea": "Residential area",
    "Restaurant": "Restaurant",
    "Restroom": "Restroom",
    "Street": "Traffic street",
    "Subway": "Metro",
    "SubwayStation": "Metro station",
}
COCHLSCENE_USERS = {"Train": (1, 20), "Val": (21, 25), "Test": (26, 30)}
# The cities of development and one of evaluation alone, first and last hour.
CAS_SCENES = {
    "Bus": (("Hefei", "Shangrao"), "Shenyang", (10, 19)),
    "Airport": (("Hefei", "Xi'an"), "Changchun", (6, 13)),
    "Metro": (("Shanghai", "Xi'an"), "Nanchang", (8, 23)),
    "Restaurant": (("Liupanshui", "Xi'an"), "Guangzhou", (12, 21)),
    "Shopping mall": (("Luoyang", "Shanghai", "Xi'an"), "Tianjin", (11, 20)),
    "Public square": (("Xi'an",), "Taiyuan", (10, 22)),
    "Urban park": (("Chongqing", "Luoyang", "Xi'an"), "Changchun", (10, 19)),
    "Traffic street": (("Xi'an",), "Shenyang", (11, 18)),
    "Construction site": (("Jinan", "Luoyang"), "Taiyuan", (9, 18)),
    "Bar": (("Chongqing", "Luoyang"), "Tianjin", (20, 23)),
}
CAS_LABELLED = 0.2  # share of the development clips
CAS_FILE_NAMES = ("{}.wav", "asc_{}.wav", "{}_48k.wav")


def tau_table(clips, rng):
    """Clips of TAU: what its lists say, and what :func:`synthesise` needs."""
    place, segment, rows = 999, 39999, []
    for label, scene in TAU_SCENES.items():
        n_places = max(2, clips // 4)
        for index, files in enumerate(np.array_split(range(clips), n_places)):
            place += 1
            city = rng.choice(TAU_CITIES)
            for number in range(len(files)):
                # Every segment is heard by device a and by another one.
                device = rng.choice(TAU_DEVICES) if number % 2 else "a"
                segment += device == "a"
                fold = "" if device in TAU_UNSEEN_DEVICES else "train"
                if index >= round(0.7 * n_places):
                    fold = "evaluate"
                name = f"{label}-{city}-{place}-{segment}-{device}.wav"
                rows.append(
                    {
                        "path": f"{TAU}/audio/{name}",
                        "filename": f"audio/{name}",
                        "scene_label": label,
                        "identifier": f"{city}-{place}",
                        "source_label": device,
                        "fold": fold,
                        "scene": scene,
                        "city": city,
                        "session": str(place),
                        "clip": str(segment),
                        "device": device,
                    }
                )
    return pd.DataFrame(rows)


def cochlscene_table(clips, rng):
    """Clips of CochlScene; a user stays in one split."""
    held_out = max(1, clips // 8)
    counts = {"Train": clips - 2 * held_out, "Val": held_out, "Test": held_out}
    recording, rows = 14976868, []
    for number, (label, scene) in enumerate(COCHLSCENE_SCENES.items()):
        for split, count in counts.items():
            for index in range(count):
                if index % 3 == 0:  # recordings of up to three clips
                    recording += 1
                    first, last = COCHLSCENE_USERS[split]
                    user = f"user{rng.integers(first, last + 1):04d}"
                name = f"{label}_{user}_{recording}_{index % 3 + 1:03d}.wav"
                rows.append(
                    {
                        "path": f"CochlScene/{split}/{label}/{name}",
                        "filename": f"{split}/{label}/{name}",
                        "number": number,
                        "split": split,
                        "scene": scene,
                        "city": user,
                        "session": str(recording),
                        "clip": str(index),
                        "device": user,
                    }
                )
    return pd.DataFrame(rows)


def cas_table(clips, rng):
    """Clips of CAS, development and evaluation.

    A session has one scene and about eight development clips; the next one
    of its run starts 600 s later.  An eighth as many clips are for evaluation:
    a quarter of them of a session of development, a quarter of the session
    after it, the others of a city of their own.
    """
    rows, day = [], pd.Timestamp("2023-04-22")
    evaluation = max(4, clips // 8)
    n_sessions = max(4, clips // 8)
    for label, (cities, unseen, hours) in CAS_SCENES.items():

        def begin():
            """Starts a run of sessions, on a day of its own."""
            second = rng.integers(3600 * hours[0], 3600 * (hours[1] + 1))
            return day + pd.Timedelta(int(second), "s")

        sessions, city = [], None
        for index, own in enumerate(np.array_split(range(clips), n_sessions)):
            before, city = city, cities[index * len(cities) // n_sessions]
            if city != before or index % 2 == 0:
                day += pd.Timedelta(1, "D")
                time = begin()
            else:
                time += pd.Timedelta(600 + int(rng.integers(2)), "s")
            sessions.append((city, time, len(own), 0))
        quarter = round(evaluation / 4)
        sessions[-1] = (*sessions[-1][:3], quarter)
        sessions.append((city, time + pd.Timedelta(600, "s"), 0, quarter))
        day += pd.Timedelta(1, "D")
        sessions.append((unseen, begin(), 0, evaluation - 2 * quarter))
        for city, time, n_dev, n_eval in sessions:
            parts = ["dev"] * n_dev + ["eval"] * n_eval
            for segment, part in enumerate(parts, 1):
                stem = f"{rng.bytes(16).hex()}{segment}_1"
                name = rng.choice(CAS_FILE_NAMES, p=[0.9, 0.05, 0.05])
                rows.append(
                    {
                        "path": f"ICME2024_GC_ASC_{part}/{name.format(stem)}",
                        "filename": stem,
                        "location": city,
                        "record_time": f"{time:%Y-%m-%d %H:%M:%S}",
                        "scene_label": label,
                        "part": part,
                        "scene": label,
                        "city": city,
                        "session": str(time),
                        "clip": stem,
                        "device": "recorder",
                    }
                )
    table = pd.DataFrame(rows)
    table["labelled"] = False
    for _, own in table[table["part"] == "dev"].groupby("scene_label"):
        labelled = rng.permutation(own.index)[: round(CAS_LABELLED * clips)]
        table.loc[labelled, "labelled"] = True
    # In no order, as the true lists are.
    return table.iloc[rng.permutation(len(table))]


def make_demo_corpora(
    folder, tau_clips=12, cochlscene_clips=9, cas_clips=36, seconds=4.0, seed=0
):
    """Writes the three corpora, all or nothing.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to write: a new or empty folder.
    tau_clips, cochlscene_clips, cas_clips : int
        Clips of each of the 10, 13 and 10 classes, at least 4, 3 and 15; of
        CAS those of development.
    seconds : float
        Length of a clip, 0.1 to 60.
    seed : int
        The same seed gives the same files.

    Returns
    -------
    pandas.DataFrame
        A row for each corpus: clips, sessions (places in TAU, recordings in
        CochlScene) and cities (users in CochlScene).

    Raises
    ------
    ValueError
        For sizes out of range.
    OSError
        If the folder is not empty or cannot be written.
    """
    least = {"tau_clips": 4, "cochlscene_clips": 3, "cas_clips": 15}
    sizes = dict(zip(least, (tau_clips, cochlscene_clips, cas_clips)))
    for name, size in sizes.items():
        if size < least[name]:
            raise ValueError(f"{name} is {size}, but must be {least[name]} up")
    if not 0.1 <= seconds <= 60:
        raise ValueError(f"seconds is {seconds}, but must be 0.1 to 60")
    folder = Path(folder).absolute()
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: remove it or name another")
    tau = tau_table(tau_clips, np.random.default_rng([seed, 1]))
    cochlscene = cochlscene_table(
        cochlscene_clips, np.random.default_rng([seed, 2])
    )
    cas = cas_table(cas_clips, np.random.default_rng([seed, 3]))
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for table, rate, subtype in (
        (tau, 44100, "PCM_24"),
        (cochlscene, 44100, "PCM_16"),
        (cas, 48000, "PCM_16"),
    ):
        names = ["scene", "city", "session", "clip", "device"]
        for path, *clip in table[["path", *names]].itertuples(index=False):
            samples = synthesise(*clip, seconds, rate, seed)
            path = partial / path
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, rate, subtype)
    _write_lists(partial, tau, cochlscene, cas)
    partial.replace(folder)
    tables = {
        "TAU 2020 Mobile": tau,
        "CochlScene": cochlscene,
        "CAS development": cas[cas["part"] == "dev"],
        "CAS evaluation": cas[cas["part"] == "eval"],
    }
    return pd.DataFrame(
        {
            name: {
                "clips": len(table),
                "sessions": table["session"].nunique(),
                "cities": table["city"].nunique(),
            }
            for name, table in tables.items()
        }
    ).T


def _write_lists(folder, tau, cochlscene, cas):
    """Writes the CSV files of the three corpora."""

    def write(path, table, separator="\t", **options):
        path = folder / path
        path.parent.mkdir(exist_ok=True)
        table.to_csv(path, sep=separator, index=False, **options)

    columns = ["filename", "scene_label"]
    write(f"{TAU}/meta.csv", tau[[*columns, "identifier", "source_label"]])
    for fold in ("train", "evaluate"):
        rows = tau.loc[tau["fold"] == fold, columns]
        write(f"{TAU}/evaluation_setup/fold1_{fold}.csv", rows)
    write(f"{TAU}/evaluation_setup/fold1_test.csv", rows[["filename"]])
    listed = cochlscene[["filename", "number", "split"]]
    write("CochlScene/Data_info.tsv", listed, header=False)
    write("truth.csv", cas[columns], ",")
    cas = cas.assign(scene_label=cas["scene_label"].where(cas["labelled"], ""))
    columns = ["filename", "location", "record_time", "scene_label"]
    for part, rows in cas.groupby("part"):
        path = f"metadata/APSIPA2025_GC_ASC_{part}_metadata.csv"
        write(path, rows[columns], ",", encoding="utf-8-sig")
    (folder / "SYNTHETIC.txt").write_text(
        "Noise made by recipes/ASC/demo, not recordings.\n"
    )


def main(arguments):
    """Runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", help="where to write: new or empty")
    for name, default, what in (
        ("tau", 12, "a scene"),
        ("cochlscene", 9, "a class"),
        ("cas", 36, "a scene, for development"),
    ):
        parser.add_argument(
            f"--{name}-clips",
            type=int,
            default=default,
            help=f"{what} (default %(default)s)",
        )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="a clip (default 4)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    try:
        summary = make_demo_corpora(**options)
    except (OSError, ValueError, soundfile.LibsndfileError) as error:
        sys.exit(f"{error}")
    print(f"{options['folder']}:\n{summary.to_string()}")


if __name__ == "__main__":
    main(sys.argv[1:])
