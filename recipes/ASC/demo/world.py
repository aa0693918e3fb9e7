"""Who, where and when of the demo corpora: one table of clips for each.

The tables follow what is known of the true corpora: TAU's places and
devices, CochlScene's users, and the recording sessions of CAS.  A row of each
holds the arguments of :func:`demo_scenes.synthesise` (``scene``, ``city``,
``session``, ``clip``, ``device``), the file's ``path`` inside the corpus, and
what the corpus's own lists say of it.
"""

import uuid

import numpy as np
import pandas as pd

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
TAU_CITIES = (
    "barcelona",
    "helsinki",
    "lisbon",
    "london",
    "lyon",
    "milan",
    "paris",
    "prague",
    "stockholm",
    "vienna",
)
# In the true corpus, too, these devices are in no training fold.
TAU_UNSEEN_DEVICES = ("s4", "s5", "s6")
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
# Of each scene: cities of development, a city of evaluation alone, hours.
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
_USERS = 831  # at most; true users have about 90 clips each, these fewer
_USER_CLIPS = 10
CAS_LABELLED = 0.2  # share of the development clips
CAS_EVALUATION = 1100 / 8700  # clips for each one of development
_SESSION_CLIPS = 26  # on average, in development
_EVALUATION_SESSION_CLIPS = 10
_PERIOD = 600  # seconds between the sessions of a run
_SEGMENTS = _PERIOD // 10  # clips that a session can have
_SHORT = 0.05  # share of sessions that are short and without labels
_FIRST_DAY, _DAYS = "2023-04-22", 130
_LATE = (0.83, 0.15, 0.02)  # shares of 600, 601 and 599 s


def tau_table(clips, seed):
    """Clips of TAU Urban Acoustic Scenes 2020 Mobile, development.

    Arguments
    ---------
    clips : int
        Files of each scene, at least 4.
    seed : int
        The same seed gives the same table.

    Returns
    -------
    pandas.DataFrame
        Its ``fold`` is train, evaluate or empty: for files of training
        places by devices that training does without.
    """
    rng = np.random.default_rng([seed, 1])
    place, segment, rows = 999, 39999, []
    for label, scene in TAU_SCENES.items():
        n_places = max(2, clips // 4)
        cities = _repeat(rng.permutation(TAU_CITIES), n_places)
        sizes = _split(clips, n_places)
        for index, (city, size) in enumerate(zip(cities, sizes)):
            place += 1
            held_out = index >= round(0.7 * n_places)
            for device in _tau_devices(size, rng):
                # Device a starts a segment, others hear the same one.
                segment += device == "a"
                unseen = device in TAU_UNSEEN_DEVICES
                fold = "evaluate" if held_out else "" if unseen else "train"
                name = f"{label}-{city}-{place}-{segment}-{device}.wav"
                rows.append(
                    {
                        "path": f"audio/{name}",
                        "scene_label": label,
                        "identifier": f"{city}-{place}",
                        "source_label": device,
                        "fold": fold,
                        "scene": scene,
                        "city": city,
                        "session": f"{city}-{place}",
                        "clip": str(segment),
                        "device": device,
                    }
                )
    return pd.DataFrame(rows)


def _tau_devices(size, rng):
    """Devices of the files of one place, in order of segments."""
    others = ("b", "c", *(f"s{k}" for k in range(1, 7)))
    devices = []
    while len(devices) < size:
        devices.append("a")
        count = min(size - len(devices), rng.choice([0, 0, 1, 2]))
        devices.extend(sorted(rng.permutation(others)[:count].tolist()))
    return devices


def cochlscene_table(clips, seed):
    """Clips of CochlScene.

    Arguments
    ---------
    clips : int
        Files of each class, at least 3: one for each split.
    seed : int
        The same seed gives the same table.

    Returns
    -------
    pandas.DataFrame
        Its ``number`` is that of the class, its ``split`` is Train, Val or
        Test; the users of each split are its own.
    """
    rng = np.random.default_rng([seed, 2])
    held_out = max(1, round(0.1 * clips))
    counts = {"Train": clips - 2 * held_out, "Val": held_out, "Test": held_out}
    users = rng.permutation(np.arange(1, 10000))
    recording, rows = 14976868, []
    for split, count in counts.items():
        n_users = len(COCHLSCENE_SCENES) * count // _USER_CLIPS
        n_users = max(2, min(n_users, _USERS * count // clips))
        own, users = users[:n_users], users[n_users:]
        for number, (label, scene) in enumerate(COCHLSCENE_SCENES.items()):
            left = count
            while left:
                size = min(left, int(rng.integers(1, 5)))
                user = f"user{rng.choice(own):04d}"
                recording += int(rng.integers(1, 1000))
                for part in range(1, size + 1):
                    name = f"{label}_{user}_{recording}_{part:03d}.wav"
                    rows.append(
                        {
                            "path": f"{split}/{label}/{name}",
                            "scene_label": label,
                            "number": number,
                            "split": split,
                            "scene": scene,
                            "city": user,
                            "session": str(recording),
                            "clip": str(part),
                            "device": f"phone-{user}",
                        }
                    )
                left -= size
    return pd.DataFrame(rows)


def cas_table(clips, seed):
    """Clips of CAS 2023, development and evaluation.

    Sessions of one class and city follow each other in runs, 600 s apart;
    a fifth of the development clips is labelled.  Some of the evaluation
    clips lie in sessions or runs of development, half are of other cities.

    Arguments
    ---------
    clips : int
        Development clips of each class, at least 15.
    seed : int
        The same seed gives the same table.

    Returns
    -------
    pandas.DataFrame
        Its ``part`` is dev or eval, its ``labelled`` says whether the label
        is in the metadata, the rest are the columns of the metadata.
    """
    rng = np.random.default_rng([seed, 3])
    calendar = _Calendar(rng)
    sessions = []
    for label in CAS_SCENES:
        sessions += _scene_sessions(label, clips, rng, calendar)
    _leave_some_unlabelled(sessions, rng)
    rows = [row for session in sessions for row in _session_rows(session, rng)]
    table = pd.DataFrame(rows)
    table["labelled"] = False
    for label in CAS_SCENES:
        table.loc[_labelled_rows(table, label, rng), "labelled"] = True
    # In no order, as the true lists are.
    return table.iloc[rng.permutation(len(table))].reset_index(drop=True)


class _Calendar:
    """Times of sessions, in seconds since the first day of recording.

    No two sessions of a city start together, nor so that one would seem to
    follow the run of the other.
    """

    def __init__(self, rng):
        self.rng = rng
        self.taken = {}

    def run(self, city, hours, count):
        """Start times of ``count`` sessions in a row."""
        taken = self.taken.setdefault(city, [])
        while True:
            day = self.rng.integers(_DAYS)
            first = self.rng.integers(3600 * hours[0], 3600 * (hours[1] + 1))
            times = [int(86400 * day + first)]
            while len(times) < count:
                times.append(self.following(times[-1]))
            apart = np.subtract.outer(times, taken)
            phase = (apart + _PERIOD // 2) % _PERIOD - _PERIOD // 2
            if not ((abs(apart) < 86400) & (abs(phase) < 20)).any():
                taken.extend(times)
                return times

    def following(self, time):
        """Start of the session after one, at times a second late or early."""
        return time + _PERIOD + int(self.rng.choice([0, 1, -1], p=_LATE))


def _scene_sessions(label, clips, rng, calendar):
    """Sessions of one scene, in time order within each run."""
    cities, unseen, hours = CAS_SCENES[label]
    size = min(_SESSION_CLIPS, clips / 6)
    count = min(round(CAS_LABELLED * clips), round(clips / size))
    count = max(len(cities), count)
    evaluation = max(3, round(CAS_EVALUATION * clips))
    within, after = max(1, evaluation // 4), max(1, evaluation // 4)
    following = _chunks(after)
    elsewhere = _chunks(evaluation - within - after)

    sizes = _uneven(clips, count, rng)
    sessions = []
    for city, number in zip(cities, _split(count, len(cities))):
        while number:
            length = min(number, 1 + int(rng.poisson(2.5)))
            number -= length
            last = not number and city == cities[-1]
            extra = following if last else []
            times = calendar.run(city, hours, length + len(extra))
            for time in times[:length]:
                sessions.append(_session(label, city, time, dev=sizes.pop()))
            for time, size in zip(times[length:], extra):
                sessions.append(_session(label, city, time, evaluation=size))
    developed = [session for session in sessions if session["dev"]]
    chosen = rng.permutation(len(developed))[: len(_chunks(within))]
    for index, size in zip(chosen, _split(within, len(chosen))):
        developed[index]["eval"] = size
    times = calendar.run(unseen, hours, len(elsewhere))
    for time, size in zip(times, elsewhere):
        sessions.append(_session(label, unseen, time, evaluation=size))
    return sessions


def _session(label, city, time, dev=0, evaluation=0):
    return {
        "label": label,
        "city": city,
        "time": time,
        "dev": dev,
        "eval": evaluation,
        "unlabelled": False,
    }


def _chunks(clips):
    """Sizes of sessions that evaluation clips are spread over."""
    return _split(clips, -(-clips // _EVALUATION_SESSION_CLIPS))


def _leave_some_unlabelled(sessions, rng):
    """Makes some sessions short and unlabelled; another gets their clips."""
    count = max(1, round(_SHORT * len(sessions)))
    for index in rng.permutation(len(sessions)):
        short = sessions[index]
        others = [
            session
            for session in sessions
            if session is not short
            and session["label"] == short["label"]
            and session["city"] == short["city"]
            and session["dev"]
            and not session["unlabelled"]
        ]
        if not count or not short["dev"] or not others:
            continue
        smallest = min(others, key=lambda session: session["dev"])
        moved = short["dev"] - max(1, short["dev"] // 4)
        room = _SEGMENTS - smallest["dev"] - smallest["eval"]
        if moved <= room:
            short["dev"] -= moved
            smallest["dev"] += moved
            short["unlabelled"] = True
            count -= 1


def _session_rows(session, rng):
    count = session["dev"] + session["eval"]
    segments = 1 + rng.permutation(_SEGMENTS)[:count]
    time = pd.Timestamp(_FIRST_DAY) + pd.Timedelta(session["time"], "s")
    time = time.strftime("%Y-%m-%d %H:%M:%S")
    rows = []
    for index, segment in enumerate(segments):
        part = "dev" if index < session["dev"] else "eval"
        code = uuid.UUID(bytes=rng.bytes(16), version=4).hex
        stem = f"{code}{segment}_{rng.integers(1, 3)}"
        rows.append(
            {
                "path": f"ICME2024_GC_ASC_{part}/{_file_name(stem, rng)}",
                "filename": stem,
                "location": session["city"],
                "record_time": time,
                "scene_label": session["label"],
                "part": part,
                "may_be_labelled": not session["unlabelled"],
                "scene": session["label"],
                "city": session["city"],
                "session": f"{session['city']} {time}",
                "clip": stem,
                "device": "recorder",
            }
        )
    return rows


def _file_name(stem, rng):
    """Most files have the name of the list, some a prefix or a suffix."""
    forms = ("{}.wav", "asc_{}.wav", "{}_48k.wav")
    return rng.choice(forms, p=[0.9, 0.05, 0.05]).format(stem)


def _labelled_rows(table, label, rng):
    """A clip of each session that may have labels, then any others."""
    own = table[(table["part"] == "dev") & (table["scene_label"] == label)]
    count = round(CAS_LABELLED * len(own))
    own = own[own["may_be_labelled"]]
    own = own.iloc[rng.permutation(len(own))]
    first = ~own["session"].duplicated()
    return [*own.index[first], *own.index[~first]][:count]


def _split(total, parts):
    """Splits a number into near-equal parts."""
    return [total // parts + (k < total % parts) for k in range(parts)]


def _uneven(total, parts, rng):
    """Splits a number into random parts of about half to twice the mean."""
    shares = rng.uniform(0.5, 1.5, parts)
    edges = np.round(np.cumsum(shares) / shares.sum() * total).astype(int)
    return np.diff(edges, prepend=0).tolist()


def _repeat(items, count):
    return [items[k % len(items)] for k in range(count)]
