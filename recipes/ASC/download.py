"""Fetches corpora from Zenodo, checked by Zenodo's own checksums."""

import zipfile
from pathlib import Path

import pooch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def fetch_record(record, names, folder, unpack=True):
    """Fetches files of a Zenodo record.

    A file that is there whole is not fetched again, so that an interrupted
    download goes on with the file at which it stopped.

    Arguments
    ---------
    record : int
        Number of the record.
    names : list
        Its files to fetch.
    folder : str or Path
        Where to keep them.
    unpack : bool
        Whether to unpack the files, zip archives, into the folder.

    Raises
    ------
    OSError
        If a file cannot be fetched, with where to find it by hand.
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
                processor=pooch.Unzip(extract_dir=".") if unpack else None,
                progressbar=True,
            )
    # A failed request is an OSError, a wrong checksum a ValueError.
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise OSError(
            f"Zenodo record {record} could not be fetched: {error}\n"
            "Run the same command again to go on, or fetch by hand from "
            f"https://zenodo.org/records/{record} into {Path(folder)}."
        )


def fetch_file(url, checksum, folder):
    """Fetches one file from the web.

    Arguments
    ---------
    url : str
        Its address.
    checksum : str
        Its SHA-256.
    folder : str or Path
        Where to put it.

    Raises
    ------
    OSError
        If it cannot be fetched or is not the file expected.
    """
    name = url.rsplit("/", 1)[-1]
    try:
        pooch.retrieve(url, f"sha256:{checksum}", name, folder)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{url} could not be fetched: {error}\n"
            f"Fetch it by hand into {Path(folder)}."
        )
