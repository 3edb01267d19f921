"""Checks before TFDS starts: the original files are there and whole, or they can be downloaded."""

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from metasemi_jax.errors import UserError

PROBE_SECONDS = 20


class Original(NamedTuple):
    """A file as its authors published it."""

    name: str
    url: str
    num_bytes: int
    sha256: str

    def describe(self) -> str:
        """'NAME (BYTES bytes, URL)'."""
        return f'{self.name} ({self.num_bytes} bytes, {self.url})'


def check_originals(
    dataset: str, folder: Path, originals: list[Original], *, required: bool
) -> list[Original]:
    """The files of `originals` that `folder` does not hold; those that it holds are verified.

    Args:
      folder: folder in which the user may have put the files, under their original names.
      required: whether the user named this folder, so that a missing file is a mistake.

    Raises:
      UserError: a file of another size or SHA-256, or a missing one that is required.
    """
    if required and not folder.is_dir():
        raise UserError(f'{dataset}: data.manual_dir={folder}: there is no such folder')
    missing = [original for original in originals if not (folder / original.name).exists()]
    if missing and required:
        raise UserError(
            f'{dataset}: data.manual_dir={folder} lacks {", ".join(map(Original.describe, missing))}; '
            'put that there, or leave data.manual_dir empty to download'
        )
    present = [original for original in originals if original not in missing]
    # All sizes first: they cost nothing.
    for find_damage in (_wrong_size, _wrong_sum):
        for original in present:
            if damage := find_damage(folder / original.name, original):
                raise UserError(
                    f'{dataset}: {folder / original.name} is damaged: {damage}; '
                    f'it should have {original.num_bytes} bytes: get it again from {original.url}'
                )
    return missing


def check_network(
    dataset: str, folder: Path, missing: list[Original], *, seconds: float = PROBE_SECONDS
) -> None:
    """Ask for the first of the missing files, to fail soon where TFDS would go on trying for minutes.

    Args:
      folder: folder into which the user could put the files instead.

    Raises:
      UserError: there is no answer, or not the file.
    """
    answer: dict[str, str] = {}
    # In a thread: no time limit of a socket covers the search for the host's address.
    thread = threading.Thread(target=_ask, args=(missing[0].url, seconds / 2, answer), daemon=True)
    thread.start()
    thread.join(seconds)
    trouble = answer.get('trouble', f'no answer in {seconds:.0f} s')
    if trouble:
        files = ' and '.join(map(Original.describe, missing))
        raise UserError(
            f'{dataset}: cannot download {missing[0].url} ({trouble}); without a network put {files} '
            f'into {folder}, or into another folder and name it with data.manual_dir='
        )


def originals_of(url_infos: Mapping, names: tuple[str, ...]) -> list[Original]:
    """The files called `names` among a TFDS builder's `url_infos`, in that order."""
    by_name = {info.filename: (url, info) for url, info in url_infos.items()}
    return [
        Original(name, by_name[name][0], int(by_name[name][1].size), by_name[name][1].checksum)
        for name in names
    ]


def _wrong_size(path: Path, original: Original) -> str:
    size = path.stat().st_size
    return f'it has {size} bytes' if size != original.num_bytes else ''


def _wrong_sum(path: Path, original: Original) -> str:
    with path.open('rb') as file:
        sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    return f'its SHA-256 is {sha256}, not {original.sha256}' if sha256 != original.sha256 else ''


def _ask(url: str, timeout: float, answer: dict[str, str]) -> None:
    # TFDS's own client, so that the same proxies and certificates are used.
    import requests

    try:
        with requests.get(url, stream=True, timeout=timeout) as response:
            answer['trouble'] = '' if response.ok else f'HTTP {response.status_code}'
    except requests.RequestException as error:
        answer['trouble'] = innermost(error)


def innermost(error: BaseException) -> str:
    """The reason below the layers that a network library wraps around it, on one line."""
    while True:
        inner = getattr(error, 'reason', None) or next(
            (arg for arg in error.args if isinstance(arg, BaseException)), None
        )
        inner = inner or error.__cause__
        if not isinstance(inner, BaseException):
            return ' '.join(str(error).split()) or type(error).__name__
        error = inner
