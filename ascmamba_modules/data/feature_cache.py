"""Features on disk, so that audio is decoded only once.

A cache is a folder with one sub-folder for each setting of the features, which
has two files.  ``features.bin`` has the frames of all clips one after another,
and is memory-mapped; ``index.csv`` has the position and the checksum of each
clip's frames, and the size and modification time of its audio file.  Frames are
only appended, and the index is replaced atomically once they are on disk:
readers always see a valid index, and a killed build resumes where it stopped.
A build compares the checksums, and computes anew what a disk has lost.
"""

import hashlib
import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ascmamba_modules.data.audio_files import load_audio
from ascmamba_modules.utils.files import file_stamp, replacing, write_csv

logger = get_logger(__name__)

_COLUMNS = ["path", "size", "modified", "start", "frames", "checksum"]
_CLIPS_PER_COMMIT = 1000


class FeatureCache:
    """Log-mel features of clips, computed once.

    float16 halves the file; its resolution is 0.06 dB from 64 to 128 dB, and
    finer below, far less than a clip's features vary.

    Arguments
    ---------
    folder : str or Path
        Where to keep the features; each setting gets a sub-folder.
    features : ascmamba_modules.features.LogMel
        What to compute.
    audio_normalizer : speechbrain.dataio.preprocess.AudioNormalizer
        Brings waveforms to the features' rate, mono.
    clip_length : float, optional
        Fixed length of the clips in seconds, see
        :func:`ascmamba_modules.data.audio_files.load_audio`.
    dtype : str
        "float16" or "float32", the type of the stored values.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain.dataio.preprocess import AudioNormalizer
    >>> from ascmamba_modules.features import LogMel
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "clip.wav", np.random.rand(44100), 44100)
    >>> cache = FeatureCache(folder, LogMel(), AudioNormalizer(44100))
    >>> cache.build([folder / "clip.wav"])
    >>> cache.load(folder / "clip.wav").shape
    torch.Size([50, 64])
    """

    def __init__(
        self,
        folder,
        features,
        audio_normalizer,
        clip_length=None,
        dtype="float16",
    ):
        if dtype not in ("float16", "float32"):
            raise ValueError(
                f"The cache keeps float16 or float32, not '{dtype}'."
            )
        self.features = features
        self.audio_normalizer = audio_normalizer
        self.clip_length = clip_length
        self.dtype = np.dtype(dtype)
        self.settings = {
            "features": features.settings,
            "mix": audio_normalizer.mix,
            "clip_length": clip_length,
            "dtype": dtype,
        }
        text = json.dumps(self.settings, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = Path(folder) / key
        self._entries = None
        self._frames = None

    def build(self, paths, num_workers=0):
        """Computes the features that are missing or out of date.

        One process of a training calls this.  Other trainings may read the
        cache meanwhile, and wait here if they build it, too.

        Arguments
        ---------
        paths : list
            Audio files.
        num_workers : int
            Worker processes; 0 for none.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            with replacing(self.folder / "settings.json") as temporary:
                temporary.write_text(json.dumps(self.settings, indent=2))
            entries = self._read_index()
            self._drop_damaged(entries, paths)
            stamps = {str(path): file_stamp(path) for path in paths}
            new = [
                path
                for path, stamp in stamps.items()
                if path not in entries or entries[path][:2] != stamp
            ]
            start = time.perf_counter()
            if new:
                self._append(new, stamps, entries, num_workers)
            seconds = time.perf_counter() - start
        size = (self.folder / "features.bin").stat().st_size
        logger.info(
            "Feature cache %s (%s, %.2f GB): %d clips computed in %.1f s, %d "
            "were there",
            *(self.folder, self.dtype, size / 1e9),
            *(len(new), seconds, len(stamps) - len(new)),
        )
        self._entries = self._frames = None

    def load(self, path):
        """Loads the features of a clip.

        Arguments
        ---------
        path : str or Path
            Its audio file, which :meth:`build` was called with.

        Returns
        -------
        torch.Tensor
            dB values (frames, n_mels), float32.

        Raises
        ------
        ValueError
            If the cache has lost them since it was built.
        """
        if self._frames is None:
            self._entries = self._read_index()
            self._frames = self._map()
        _, _, start, frames, _ = self._entries[str(path)]
        values = self._frames[start : start + frames]
        if len(values) < frames:
            raise ValueError(
                f"{self.folder / 'features.bin'} is cut short: it lacks the "
                f"features of {path}; the same command again computes them."
            )
        return torch.from_numpy(values.astype(np.float32))

    def __getstate__(self):
        """Leaves out the memory map: a spawned worker opens its own."""
        return {**vars(self), "_entries": None, "_frames": None}

    def _map(self):
        path, n_mels = self.folder / "features.bin", self.features.n_mels
        # Whole frames only: another process may be writing at the end.
        frames = path.stat().st_size // (n_mels * self.dtype.itemsize)
        if frames == 0:  # nothing can be mapped
            return np.empty((0, n_mels), self.dtype)
        return np.memmap(path, self.dtype, "r", shape=(frames, n_mels))

    def _read_index(self):
        """Path to (size, modified, start, frames, checksum)."""
        path = self.folder / "index.csv"
        if not path.exists():
            return {}
        try:
            types = {"path": str, **dict.fromkeys(_COLUMNS[1:], int)}
            rows = pd.read_csv(path, dtype=types, keep_default_na=False)
            rows = rows[_COLUMNS]
        except (ValueError, KeyError) as error:
            logger.warning(
                "%s is damaged, or of an earlier version (%s): all features "
                "are computed anew",
                *(path, f"{error}".strip()),
            )
            return {}
        return {row[0]: row[1:] for row in rows.itertuples(False, None)}

    def _drop_damaged(self, entries, paths):
        """Removes clips whose frames are not as they were written; those that
        are not asked for, only if the file ends before them."""
        if not entries:
            return
        (self.folder / "features.bin").touch()
        data = self._map()
        asked = {str(path) for path in paths}
        damaged = []
        for path, (_, _, start, frames, checksum) in entries.items():
            whole = 0 <= start < start + frames <= len(data)
            if whole and path in asked:
                whole = zlib.crc32(data[start : start + frames]) == checksum
            if not whole:
                damaged.append(path)
        for path in damaged:
            del entries[path]
        if damaged:
            logger.warning(
                "%s has lost the features of %d clips, which are computed anew",
                *(self.folder, len(damaged)),
            )

    def _append(self, paths, stamps, entries, num_workers):
        end = max((e[2] + e[3] for e in entries.values()), default=0)
        clips = DataLoader(
            _Clips(paths, self),
            batch_size=None,
            num_workers=num_workers,
            # Its own generator: building must not advance the global one.
            generator=torch.Generator(),
        )
        # disable=None: no bar unless the output is a terminal.
        clips = tqdm(clips, "Computing features", len(paths), disable=None)
        with open(self.folder / "features.bin", "ab") as file:
            # Frames of a killed build that are not in the index.
            file.truncate(end * self.features.n_mels * self.dtype.itemsize)
            for number, (path, values) in enumerate(zip(paths, clips), 1):
                data = values.numpy().tobytes()
                file.write(data)
                position = end, len(values), zlib.crc32(data)
                entries[path] = (*stamps[path], *position)
                end += len(values)
                if number % _CLIPS_PER_COMMIT == 0 or number == len(paths):
                    file.flush()
                    os.fsync(file.fileno())
                    rows = [(path, *entry) for path, entry in entries.items()]
                    table = pd.DataFrame(rows, columns=_COLUMNS)
                    write_csv(table, self.folder / "index.csv")


class _Clips(Dataset):
    """Computes the features of one clip after another."""

    def __init__(self, paths, cache):
        self.paths = paths
        self.cache = cache

    def __len__(self):
        return len(self.paths)

    @torch.no_grad()
    def __getitem__(self, index):
        cache = self.cache
        waveform = load_audio(
            self.paths[index], cache.audio_normalizer, cache.clip_length
        )
        values = cache.features(waveform.unsqueeze(0))[0]
        return torch.from_numpy(values.numpy().astype(cache.dtype))
