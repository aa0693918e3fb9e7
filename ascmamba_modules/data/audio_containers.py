"""Sizes that the headers of audio files state, against the files' own.

libsndfile takes a truncated file for a shorter one, and one whose header was
never completed for an empty one.
"""

import io
import os
import re
import struct
from typing import NamedTuple

TRUNCATED = "truncated: shorter than its header says; fetch it again"
_NO_SAMPLES = "no samples in the file; fetch it again"
_NO_OGG_END = (
    "its end mark is missing: perhaps the recording went on, or was cut"
)
_OGG_FIRST, _OGG_LAST = 2, 4  # flags of a stream's pages, RFC 3533
_WAVE = (b"RIFF", b"RF64", b"BW64")
# By the first four bytes: a chunk's header, and where the first chunk is.
_CHUNKS = {
    **dict.fromkeys(_WAVE, ("<4sI", 12)),
    b"RIFX": (">4sI", 12),
    b"FORM": (">4sI", 12),  # AIFF, 8SVX
    b"caff": (">4sQ", 8),
    b"riff": ("<16sQ", 40),  # W64
}
# Windows Media, and its object that holds the file's size.
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_SAMPLES = (b"data", b"SSND", b"BODY")
_TAGS = (b"TAG", b"ID3", b"APETAGEX")  # of MP3, behind other files as well
_PADDING = 2**16  # bytes; fewer zeros at the end of a file are no samples
_MAX_CHUNKS = 10_000  # a damaged file may seem to have any number


class Container(NamedTuple):
    """What a file's container tells about its samples.

    Arguments
    ---------
    problem : str
        Why they cannot be read as a whole, with the remedy; empty if they can.
    note : str
        What a user should know about them; empty if nothing.
    source : io.RawIOBase or None
        File with a mended header, to read instead.
    """

    problem: str = ""
    note: str = ""
    source: "MendedFile | None" = None


def check_container(file):
    """Compares the sizes in an audio file's header with the file.

    Arguments
    ---------
    file : io.FileIO
        The file.

    Returns
    -------
    Container
        Of the known kinds of files; empty for others.
    """
    file.seek(0)
    magic = file.read(4)
    size = file.seek(0, os.SEEK_END)
    if magic == b"OggS":
        return _check_ogg(file, size)
    if magic == b"Crea":
        return _check_voc(file, size)
    if magic in (b".snd", b"dns.", b"NIST", _ASF[:4]):
        return _check_fixed_header(file, magic, size)
    chunks = _find_chunks(file, magic, size)
    name = next((name for name in _SAMPLES if name in chunks), None)
    if name is None:
        return Container()
    if magic in _WAVE and b"fmt " in chunks:
        return _check_wave(file, magic, size, chunks)
    start, stated = chunks[name]
    open_ended = magic == b"caff" and stated == 2**64 - 1
    if start + stated > size and not open_ended:
        return Container(TRUNCATED)
    return Container()


def _find_chunks(file, magic, size):
    """Start and size of each chunk by name, up to the samples."""
    if magic not in _CHUNKS:
        return {}
    form, position = _CHUNKS[magic]
    length = struct.calcsize(form)
    chunks = {}
    while position + length <= size and len(chunks) < _MAX_CHUNKS:
        file.seek(position)
        name, stated = struct.unpack(form, file.read(length))
        if magic == b"riff":  # sizes include the header, ends are aligned
            stated = max(0, stated - length)
        name, start = name[:4], position + length
        chunks[name] = start, stated
        if name in _SAMPLES:
            break
        align = {b"riff": 8, b"caff": 1}.get(magic, 2)
        position = start + stated + -stated % align
    return chunks


def _check_wave(file, magic, size, chunks):
    """Finds the length of the samples where the header does not tell it."""
    start, stated = chunks[b"data"]
    rest = size - start
    if b"ds64" in chunks and stated == 0xFFFFFFFF:
        stated = int.from_bytes(
            _read(file, chunks[b"ds64"][0] + 8, 8), "little"
        )
    # What programs leave that write into a pipe or are stopped.
    open_ended = 0x7FFFF000 <= stated <= 0x80000000 or stated >= 2**64 - 1
    open_ended |= 0xFFFFF000 <= stated < 2**32
    length, problem, note = stated, "", ""
    if stated <= rest and _is_end(file, start + stated, size):
        problem = "" if stated else _NO_SAMPLES
    elif stated == 0 or open_ended:
        length = rest
        note = (
            ""
            if stated
            else ("its header was never completed; read to the end of the file")
        )
    elif stated > rest:
        problem = TRUNCATED
    elif rest - stated >= 2**32:
        length += (rest - stated) >> 32 << 32
        note = "its header is too small for its size; read to the end"
    else:
        problem = (
            f"its header states {stated} bytes of samples, but {rest - stated} "
            "more bytes follow; if they are samples, mend the header (ffmpeg "
            "-ignore_length 1 -i FILE -c copy NEW.wav)"
        )
    if problem or (magic != b"BW64" and length == stated):
        return Container(problem)
    chunk = {
        name: name + struct.pack("<I", n) + _read(file, first, n + n % 2)
        for name, (first, n) in chunks.items()
        if name in (b"fmt ", b"fact") and n < 1000
    }
    return Container("", note, MendedFile(file, chunk, start, length))


def _read(file, position, size):
    file.seek(position)
    return file.read(size)


def _is_end(file, position, size):
    """Whether chunks, tags or zeros, but no samples, follow up to the end."""
    for _ in range(_MAX_CHUNKS):
        left = size - position
        if left < 8:
            return True
        head = _read(file, position, 9)
        if any(tag in head for tag in _TAGS):
            return True
        if left <= _PADDING and not any(_read(file, position, left)):
            return True
        # Not every program pads chunks of odd sizes.
        for skip in (0, 1):
            name, length = head[skip : skip + 4], head[skip + 4 : skip + 8]
            end = position + skip + 8 + int.from_bytes(length, "little")
            if re.fullmatch(rb"[ -~]{4}", name) and end <= size:
                break
        else:
            return False
        if name in _WAVE:  # another file
            return False
        position = end
    return False


class MendedFile(io.RawIOBase):
    """A WAVE file with a header that states its size.

    Arguments
    ---------
    file : io.FileIO
        The file.
    chunks : dict
        The chunks of its header, by name, as bytes.
    start, length : int
        Where the samples are in the file, in bytes.
    """

    def __init__(self, file, chunks, start, length):
        self._file, self._start = file, start
        large = length >= 2**32 - 1000
        size = struct.pack("<I", 0xFFFFFFFF if large else length)
        header = b"WAVE"
        if large:
            header += struct.pack("<4sI3QI", b"ds64", 28, length, length, 0, 0)
        header += b"".join(chunks.values()) + b"data" + size
        magic = b"RF64" if large else b"RIFF"
        self._header = magic + size + header
        self._size = len(self._header) + length
        self._position = 0

    def readable(self):
        """True."""
        return True

    def seekable(self):
        """True."""
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        """As of any file."""
        base = (0, self._position, self._size)[whence]
        self._position = base + offset
        return self._position

    def tell(self):
        """As of any file."""
        return self._position

    def readinto(self, buffer):
        """As of any file."""
        behind = self._position - len(self._header)
        if behind < 0:
            data = self._header[behind:][: len(buffer)]
        else:
            length = min(len(buffer), self._size - self._position)
            data = _read(self._file, self._start + behind, max(0, length))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _check_fixed_header(file, magic, size):
    """AU, NIST SPHERE and Windows Media."""
    head = _read(file, 0, 2**16)
    if magic == _ASF[:4]:
        *_, rest = head.partition(_ASF_PROPERTIES)
        end = int.from_bytes(rest[24:32], "little")
    elif magic == b"NIST":
        keys = (b"sample_count", b"channel_count", b"sample_n_bytes")
        found = [re.search(key + rb" -i (\d+)", head) for key in keys]
        first = re.match(rb"NIST_1A\s+(\d+)", head)
        if not all(found) or not first or b"shorten" in head:
            return Container()
        samples, channels, width = [int(match[1]) for match in found]
        end = int(first[1]) + samples * channels * width
    else:
        order = ">" if magic == b".snd" else "<"
        start, length = struct.unpack_from(order + "II", head.ljust(12), 4)
        end = 0 if length == 0xFFFFFFFF else start + length
    return Container(TRUNCATED if end > size else "")


def _check_voc(file, size):
    """Whether the last of its blocks is complete."""
    position = int.from_bytes(_read(file, 20, 2), "little")
    while position < size - 16:  # SoX's blocks are 8 bytes longer than stated
        head = _read(file, position, 4)
        if head[0] == 0:
            break
        position += 4 + int.from_bytes(head[1:], "little")
    return Container(TRUNCATED if position > size else "")


def _check_ogg(file, size):
    """Whether its pages are complete, and none is missing."""
    numbers = {}  # of the next page, by stream
    position, flags = 0, 0
    while position < size:
        page = _read(file, position, 282)
        if page[:4] != b"OggS":
            if page.startswith(_TAGS) or not any(page):
                break
            return Container(
                f"truncated or damaged behind byte {position}; fetch it again"
            )
        flags, stream, number = struct.unpack_from("<5xB8x2I", page.ljust(27))
        if number != numbers.get(stream, number) and not flags & _OGG_FIRST:
            return Container("damaged: pages are missing; fetch it again")
        numbers[stream] = number + 1
        segments = page[26] if len(page) > 26 else 0
        position += 27 + segments + sum(page[27 : 27 + segments])
    if position > size:
        return Container(TRUNCATED)
    return Container(note="" if flags & _OGG_LAST else _NO_OGG_END)
