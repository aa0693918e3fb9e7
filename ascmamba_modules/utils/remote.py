"""Recordings on object stores and servers, fetched whole through fsspec."""

import errno
import os
import re
import tempfile
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path

_thread = threading.local()  # its ``files``: what is fetched now, by URL


def is_url(path):
    """Tells a URL from a path; names with colons are paths.

    Arguments
    ---------
    path : str or Path
        Either.

    Returns
    -------
    bool
        Whether it begins with a scheme.

    Example
    -------
    >>> [is_url(path) for path in ("s3://a/b.wav", "C:/b.wav", "a:b.wav")]
    [True, False, False]
    """
    return re.match(r"[A-Za-z][\w+.-]+://", str(path)) is not None


def absolute(path):
    """Makes a path independent of the current folder.

    Arguments
    ---------
    path : str
        Path or URL.

    Returns
    -------
    str
        The path from the root; a URL as it is.

    Example
    -------
    >>> absolute("s3://bucket/a.wav"), absolute("/a.wav")
    ('s3://bucket/a.wav', '/a.wav')
    """
    return path if is_url(path) else os.path.abspath(path)


@contextmanager
def local(path):
    """Gives a file that can be opened here.

    Arguments
    ---------
    path : str or Path
        Path or URL.

    Yields
    ------
    str or Path
        The path; for a URL that of a temporary file with the same suffix.

    Raises
    ------
    OSError
        If a URL cannot be fetched.

    Example
    -------
    >>> with local("a.wav") as file:
    ...     print(file)
    a.wav
    """
    if not is_url(path):
        yield path
        return
    with fetched_once():
        files = _thread.files
        if path not in files:
            files[path] = _fetch(path)
        yield files[path]


@contextmanager
def fetched_once():
    """Inside, :func:`local` fetches each URL once in this thread.

    Example
    -------
    >>> with fetched_once(), local("a.wav") as first, local("a.wav") as second:
    ...     print(first, second)
    a.wav a.wav
    """
    if hasattr(_thread, "files"):
        yield
        return
    files = _thread.files = {}
    try:
        yield
    finally:
        del _thread.files
        for file in files.values():
            os.unlink(file)


def _fetch(url):
    suffix = Path(url.partition("?")[0]).suffix
    descriptor, file = tempfile.mkstemp(suffix)
    os.close(descriptor)
    try:
        with _store(url) as (store, name):
            store.get_file(name, file)
    except BaseException:
        os.unlink(file)
        raise
    return file


def find_urls(url):
    """Lists the files in a remote folder and below it, or those of a pattern.

    Arguments
    ---------
    url : str
        URL that ends in ``/``, or has ``*`` in it.

    Returns
    -------
    list
        URLs by name.

    Raises
    ------
    OSError
        If there is no such folder, or the store cannot be asked.
    """
    with _store(url) as (store, name):
        found = store.find(name) if url[-1] == "/" else store.glob(name)
        if not found:  # ls says why
            store.ls(f"{name}/".partition("*")[0].rpartition("/")[0])
        # Host and user stay as they are in the URL: names do not have them.
        whole = url.removesuffix("/")
        start = whole.removesuffix(name.removesuffix("/"))
        if start == whole:
            return sorted(map(store.unstrip_protocol, found))
        return sorted(start + file for file in found)


def url_stamp(url):
    """As :func:`~ascmamba_modules.utils.files.file_stamp`, for a URL.

    Arguments
    ---------
    url : str
        The URL.

    Returns
    -------
    size : int
        Its size in bytes, 0 if unknown.
    modified : int
        A checksum of what the store tells about it.

    Raises
    ------
    OSError
        If it is not there.
    """
    with _store(url) as (store, name):
        about = store.info(name)
        text = repr(sorted(about.items()))
        return about["size"] or 0, zlib.crc32(text.encode())


@contextmanager
def _store(url):
    """The file system of a URL and the name in it; any error an OSError."""
    try:
        import fsspec

        yield fsspec.core.url_to_fs(url)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "file not found", url) from None
    except FileExistsError:  # fsspec makes a folder of a folder
        reason = "not a file; the URL of a folder ends in /"
        raise IsADirectoryError(errno.EISDIR, reason, url) from None
    except Exception as error:
        reason = " ".join(f"{error}".split()) or type(error).__name__
        # A redirection's may have a password in it.
        reason = re.sub(r"[\w+.-]+://[^\s'\")]+", "...", reason)
        if isinstance(error, ImportError):
            reason += "; for http and s3: pip install 'ascmamba[remote]'"
        reason = f"cannot be fetched ({reason})"
        raise OSError(errno.EIO, reason, url) from None
