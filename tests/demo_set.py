"""A small labelled set and its manifest, made with the demo's sounds."""

import pandas as pd
import soundfile
from demo.make_corpora import CAS_SCENES
from demo.scenes import synthesise

from ascmamba_modules.data.manifest import write_manifest

SCENES = tuple(CAS_SCENES)
SPLITS = ("train", "train", "valid", "train", "train", "test")


def make_demo_set(folder, clips_per_scene, seconds):
    """Writes some clips of each CAS scene, and ``manifest.csv``."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rows = []
    for label, (cities, _, hours) in CAS_SCENES.items():
        for number in range(clips_per_scene):
            name = f"{label.lower().replace(' ', '_')}_{number:03d}"
            city = cities[number // 6 % len(cities)]
            time = f"2023-05-13 {hours[0] + number % 2:02d}:00:00"
            session = f"{city} {time}"
            samples = synthesise(
                scene=label,
                city=city,
                session=session,
                clip=name,
                seconds=seconds,
                rate=44100,
                device="recorder",
                seed=0,
            )
            soundfile.write(folder / "audio" / f"{name}.wav", samples, 44100)
            rows.append(
                {
                    "ID": name,
                    "wav": f"audio/{name}.wav",
                    "duration": seconds,
                    "scene_label": label,
                    "location": city,
                    "record_time": time,
                    "session": session,
                    "dataset": "synthetic demo",
                    "split": SPLITS[number % 6],
                    "label_source": "synthetic",
                }
            )
    table = pd.DataFrame(rows)
    write_manifest(table, folder / "manifest.csv")
    return table
