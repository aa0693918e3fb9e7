"""Decoding audio files to their end, whatever their headers say.

libsndfile stops where a header says, or where it estimates the end of an MP3,
and knows nothing of AAC.  What lies behind that end, or is of another kind, is
decoded by FFmpeg, if PyAV is installed.
"""

import io
import os
import re
from contextlib import contextmanager

import numpy as np
import soundfile

from ascmamba_modules.data.audio_containers import check_container
from ascmamba_modules.data.sample_check import SampleCheck
from ascmamba_modules.utils.remote import local

_TOLERANCE = 0.05  # seconds
_UNKNOWN = 2**40  # frames; what libsndfile says where it does not know is more
_BLOCK = 2**18  # frames
# No playlists, which would have FFmpeg open other files.
_AV_FORMATS = (
    "3g2,3gp,aac,ac3,aiff,amr,ape,asf,au,caf,eac3,flac,m4a,matroska,mj2,mov,"
    "mp3,mp4,ogg,tta,voc,w64,wav,webm,wv"
)
# Their headers state the duration; elsewhere FFmpeg estimates it.
_AV_STATED = ("asf", "matroska", "mov")


def libsndfile_message(error):
    """Gives libsndfile's message on an error, without the file name.

    Arguments
    ---------
    error : Exception
        Raised by opening or reading an audio file.

    Returns
    -------
    str
        The message.
    """
    text = getattr(error, "error_string", str(error)).strip().rstrip(".")
    # What it says of any unknown format once it has tried to open an SD2.
    return "Format not recognised" if "resource fork" in text else text


@contextmanager
def open_audio(path):
    """Opens an audio file, whatever its name.

    Arguments
    ---------
    path : str or Path
        The file, or its URL.

    Yields
    ------
    AudioReader
        At its first sample.

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is no audio file that can be read.
    """
    # By file descriptor: libsndfile refuses names of over 1024 bytes, and
    # soundfile names that are not UTF-8.
    with local(path) as name, _File(name) as file:
        reader = AudioReader(file)
        try:
            yield reader
        finally:
            reader.close()


class _File(io.FileIO):
    """Seeks to its end at most, where a damaged header names any position."""

    def seek(self, offset, whence=os.SEEK_SET):
        if whence == os.SEEK_SET:
            offset = min(max(offset, 0), os.fstat(self.fileno()).st_size)
        return super().seek(offset, whence)


class _Sequential(soundfile.SoundFile):
    """Reads without soundfile's own seeks around every read.

    They fail in files of unknown length and lead astray in damaged ones.
    """

    def seekable(self):
        return False


class AudioReader:
    """Reads an audio file from its start to its end.

    ``samplerate`` and ``channels`` are the file's, ``checked`` is a
    :class:`~ascmamba_modules.data.sample_check.SampleCheck` of what has been
    read, ``problem`` what is wrong with the file's header, and ``note`` what
    is not as usual in it.

    Arguments
    ---------
    file : io.FileIO
        The file, open and not buffered.

    Raises
    ------
    ValueError
        If it is no audio file that can be read.
    """

    def __init__(self, file):
        self._file = file
        self._sound = self._av = None
        self._ended = False
        self._done = 0  # frames
        self.problem, self.note, source = check_container(file)
        file.seek(0)
        try:
            self._sound = _Sequential(source or file.fileno(), closefd=False)
            if "multi-segment" in self._sound.extra_info:
                # libsndfile takes the blocks' headers for samples.
                self._sound = self._sound.close()
                self._open_av("VOC file of several blocks")
        except soundfile.LibsndfileError as error:
            reason = libsndfile_message(error)
            self._open_av(f"not an audio file that can be read ({reason})")
        decoder = self._sound or self._av
        self.samplerate = decoder.samplerate
        self.channels = decoder.channels
        self.checked = SampleCheck(self.channels)

    def close(self):
        """Closes the decoders."""
        for decoder in (self._sound, self._av):
            if decoder is not None:
                decoder.close()

    @property
    def is_plain(self):
        """Whether its length is known without decoding it."""
        return (
            self._sound is not None
            and self._sound.frames > 0
            and re.match("PCM|[AU]LAW|FLOAT|DOUBLE", self._sound.subtype)
            and self._sound.format != "FLAC"
        )

    @property
    def is_float(self):
        """Whether its samples may have any scale, or be NaN."""
        return self._sound and self._sound.subtype in ("FLOAT", "DOUBLE")

    @property
    def frames(self):
        """Number of samples a channel that it states; None if unknown."""
        if self._sound is None:
            return self._av.frames
        if not 0 < self._sound.frames < _UNKNOWN:
            return None
        if "MPEG" in self._sound.subtype and not _mp3_states_length(self._file):
            return None  # libsndfile's is an estimate
        return self._sound.frames

    def read(self, frames):
        """Reads the next samples.

        Arguments
        ---------
        frames : int
            How many, of each channel.

        Returns
        -------
        numpy.ndarray
            Samples (time, channels) as float32; fewer than ``frames`` only at
            the end of the file.

        Raises
        ------
        ValueError
            If the file is damaged, or ends too early.
        """
        if self.problem:
            raise ValueError(self.problem)
        parts = [np.empty((0, self.channels), "float32")]
        while frames and not self._ended:
            part = self._read(min(frames, _BLOCK))
            self.checked.add(part)
            self._done += len(part)
            frames -= len(part)
            parts.append(part)
        return np.concatenate(parts)

    def _read(self, frames):
        """The next samples, at most so many; none only at the end."""
        if self._av is None:
            try:
                # Of what lies behind its end libsndfile decodes as much as is
                # asked for, and drops it.
                left = max(0, self._sound.frames - self._done)
                part = self._sound.read(
                    min(frames, left), "float32", always_2d=True
                )
                if len(part):
                    return part
                unread = self._unread()
            except soundfile.LibsndfileError as error:
                unread = (
                    f"truncated or damaged after {self._seconds:.2f} s "
                    f"({libsndfile_message(error)}); fetch it again"
                )
                if self.frames is None and "MPEG" not in self._sound.subtype:
                    raise ValueError(unread) from None
                if self._done:
                    self.note = f"perhaps damaged after {self._seconds:.2f} s"
            if unread:
                self._open_av(unread, self._done)
        part = np.empty((0, self.channels), "float32")
        if self._av is not None:
            part = self._av.read(frames)
        if len(part) == 0:
            self._end()
        return part

    def _unread(self):
        """Why libsndfile's end is not that of the file; empty if it is."""
        if self.is_plain:
            return ""  # its size has been checked
        position = self._file.tell()
        left = _end_of_audio(self._file) - position
        self._file.seek(position)
        if left * self._done <= _TOLERANCE * self.samplerate * position:
            return ""
        return f"libsndfile reads only {self._seconds:.2f} s of it"

    @property
    def _seconds(self):
        return self._done / self.samplerate

    def _open_av(self, reason, skip=0):
        self._av = _AvDecoder(self._file, reason, skip)
        if self._sound and self._av.channels != self.channels:
            raise ValueError(reason)

    def _end(self):
        self._ended = True
        if self._done == 0:
            raise ValueError("no samples in the file; fetch it again")
        stated = self.frames or 0
        if self._done < stated - _TOLERANCE * self.samplerate:
            raise ValueError(
                f"truncated or damaged: {self._seconds:.2f} s of "
                f"{stated / self.samplerate:.2f} s can be read; fetch it again"
            )


def _mp3_states_length(file):
    """Whether the number of frames stands in the first frame of an MP3."""
    position = file.tell()
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3":
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte
        file.seek(10 + size)
    head = head + file.read(4096)
    file.seek(position)
    tag = re.search(rb"(?:Xing|Info)...(.)|VBRI", head, re.DOTALL)
    return bool(tag) and (tag[1] is None or tag[1][0] & 1)


def _end_of_audio(file):
    """Where the tags begin that may stand at the end of a file."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 128))
    if file.read(3) == b"TAG":
        end -= 128
    file.seek(max(0, end - 32))
    footer = file.read(32)
    if footer[:8] == b"APETAGEX":
        end -= 32 + int.from_bytes(footer[12:16], "little")
    return end


class _AvDecoder:
    """Decodes with FFmpeg.

    Arguments
    ---------
    file : io.FileIO
        The file.
    reason : str
        Why it is needed, for the message if it is not there.
    skip : int
        Samples to leave out at the start.
    """

    def __init__(self, file, reason, skip=0):
        try:
            import av
        except ImportError:
            raise ValueError(
                f"{reason}; FFmpeg may read it: pip install 'ascmamba[av]', or "
                "convert it to WAVE or FLAC"
            ) from None
        self._av, self._reason = av, reason
        options = {
            "format_whitelist": _AV_FORMATS,
            "protocol_whitelist": "none",
        }
        file.seek(0)
        try:
            self._container = av.open(file, options=options)
        except (av.error.FFmpegError, OSError):
            raise ValueError(reason) from None
        self._parts = self._decode()
        self._part = next(self._parts, None)
        if self._part is None:
            raise ValueError(reason)
        while skip and len(part := self.read(skip)):
            skip -= len(part)

    @property
    def frames(self):
        """Number of samples a channel that the file states; None if unknown."""
        stated = self._container.format.name.startswith(_AV_STATED)
        if not stated or not self._container.duration:
            return None
        seconds = self._container.duration / 1e6 - _TOLERANCE  # it is rounded
        return max(0, int(seconds * self.samplerate))

    def close(self):
        """Closes the container."""
        self._container.close()

    def read(self, frames):
        """The next samples, at most so many; none only at the end."""
        while self._part is not None and len(self._part) == 0:
            self._part = next(self._parts, None)
        if self._part is None:
            return np.empty((0, self.channels), "float32")
        part, self._part = self._part[:frames], self._part[frames:]
        return part

    def _decode(self):
        """Yields samples (time, channels) at the rate of the first."""
        lost = 0.0  # seconds
        resampler, form = None, None
        stream = next(iter(self._container.streams.audio), None)
        if stream is None:
            return
        try:
            for packet in self._container.demux(stream):
                try:
                    frames = packet.decode()
                except self._av.error.InvalidDataError:
                    # As where one MP3 follows another.
                    lost += float((packet.duration or 0) * packet.time_base)
                    if lost > _TOLERANCE:
                        raise
                    continue
                for frame in frames:
                    new = (frame.format.name, frame.layout.name)
                    new += (frame.sample_rate,)
                    if form is None:
                        self.samplerate = frame.sample_rate
                        self.channels = frame.layout.nb_channels
                        layout = frame.layout
                    if form != new:
                        form = new
                        resampler = self._av.AudioResampler(
                            "flt", layout, self.samplerate
                        )
                    for part in resampler.resample(frame):
                        yield part.to_ndarray().reshape(-1, self.channels)
        except (self._av.error.FFmpegError, OSError) as error:
            raise ValueError(
                f"truncated or damaged ({error.strerror}); fetch it again"
            ) from None
