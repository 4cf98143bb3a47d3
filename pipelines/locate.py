"""From a uri of the tables back to the file, for those who hold the key."""

from __future__ import annotations

import os

from pipelines.archives import walk
from pipelines.datasets import Dataset
from pipelines.errors import ConfigError, LakeError, SourceError
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.progress import Progress
from pipelines.pseudonyms import KEY_VARIABLE, PUBLIC_KEY, Pseudonymizer, secret_key


def locate(lake: Lake, uri: str, dataset: str | None, key_file: str | None) -> str:
    """The path of the file that `uri` stands for. It may hold identifiers: it is for a terminal, and for no file.

    Args:
        lake: whose tables tell the uri.
        uri: a path in the archive, or the pseudonym of one.
        dataset: that it belongs to; None: the only one of the lake.
        key_file: holds the key of the data set's first ingest; None: the environment does.

    Raises:
        LakeError: if the lake knows no such data set.
        ConfigError: if the key is not at hand, or is another one.
        SourceError: if the archive is not where it was, or holds no such file.
    """
    name, known, told_in = _known(lake, dataset)
    archive = Folder.at(known.archive)
    if not archive.exists():
        raise SourceError(
            f"the archive of data set '{name}' is not where it was when it was ingested. Mount it there; if it has "
            f"moved for good, correct {told_in}."
        )
    if archive.filesystem.isfile(f"{archive.path}/{uri}"):
        return f"{archive.uri}/{uri}"
    if known.key_check != Pseudonymizer(PUBLIC_KEY, name).key_check:
        seen = 0
        stands_for = _pseudonymizer(name, known, key_file)
        with Progress("locate", None, lambda: seen):
            for file in walk(archive, excluded=lake.folder):
                if stands_for.keyed_uri(file.path) == uri:
                    return f"{archive.uri}/{file.path}"
                seen += 1
    raise SourceError(
        f"no file in the archive of data set '{name}' has this uri: it was moved, renamed or deleted since, or never "
        "was there (reason missing_file). The row that the quarantine's detail tells is its row in the label file."
    )


def _known(lake: Lake, dataset: str | None) -> tuple[str, Dataset, str]:
    """The data set's name, what is remembered of it, and the URI of the file where that stands."""
    # An archive that was only scored is told by keyed uris too.
    folders = {
        file.removesuffix(".json"): folder
        for folder in (lake.scored_archives, lake.datasets)
        for file in folder.names()
    }
    there = sorted(folders)
    if dataset is None and len(there) == 1:
        dataset = there[0]
    if dataset is None or dataset not in there:
        cause = "the lake holds several data sets" if dataset is None else f"the lake knows no data set '{dataset}'"
        raise LakeError(f"{cause}. Give dataset=NAME, one of: {', '.join(there) or 'none'}.")
    file = f"{dataset}.json"
    return dataset, Dataset(**folders[dataset].read_json(file)), f"{folders[dataset].uri}/{file}"


def _pseudonymizer(name: str, known: Dataset, key_file: str | None) -> Pseudonymizer:
    if not key_file and not os.environ.get(KEY_VARIABLE):
        raise ConfigError(
            f"the uris of data set '{name}' are pseudonyms, and only the key of its ingest leads back to the files. "
            f"Give pseudonym_key_file=FILE, or put it into {KEY_VARIABLE}."
        )
    pseudonymizer = Pseudonymizer(secret_key(key_file), name)
    if pseudonymizer.key_check != known.key_check:
        raise ConfigError(f"this is not the key with which data set '{name}' was ingested. Give that one.")
    return pseudonymizer
