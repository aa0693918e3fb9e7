"""Fetches corpora from Zenodo, checked by Zenodo's own checksums."""

import shutil
import zipfile
from pathlib import Path

import pooch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def fetch_record(record, names, folder, unpack=True):
    """Fetches files of a Zenodo record; ``unpack`` says whether to unpack
    them, zip archives, into the folder.

    A file that is there whole is not fetched again, so that an interrupted
    download goes on with the file at which it stopped.  Raises an OSError that
    says where to find by hand what cannot be fetched.
    """
    store = pooch.create(folder, f"doi:10.5281/zenodo.{record}/")
    try:
        store.load_registry_from_doi()
        absent = [name for name in names if name not in store.registry]
        if absent:
            raise ValueError(f"it does not hold {', '.join(absent)}")
        for number, name in enumerate(names, 1):
            logger.info("File %d of %d: %s", number, len(names), name)
            store.fetch(
                name,
                processor=_unpack if unpack else None,
                progressbar=True,
            )
    # A failed request is an OSError, a wrong checksum a ValueError.
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise OSError(
            f"Zenodo record {record} could not be fetched: {error}\n"
            "Run the same command again to go on, or fetch by hand from "
            f"https://zenodo.org/records/{record} into {Path(folder)}."
        )


def _unpack(path, action, store):
    """Unpacks an archive beside it, as a processor of pooch.

    Each member appears whole, under its name, or not at all: pooch's own keeps
    the one that was cut when the program was killed.
    """
    folder = Path(path).parent
    scratch = folder / ".unpacking"
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            target = folder / member.filename
            if member.is_dir() or _is_whole(target, member.file_size):
                continue
            unpacked = Path(archive.extract(member, scratch))
            target = folder / unpacked.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            unpacked.replace(target)
    shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(path, size):
    return path.is_file() and path.stat().st_size == size


def fetch_file(url, checksum, folder):
    """Fetches one file from the web, by its SHA-256; raises an OSError that
    says how to do it by hand."""
    name = url.rsplit("/", 1)[-1]
    try:
        pooch.retrieve(url, f"sha256:{checksum}", name, folder)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{url} could not be fetched: {error}\n"
            f"Fetch it by hand into {Path(folder)}."
        )
