"""The image files below a folder, each once, however many links lead to it."""

import collections
import os
from pathlib import Path

from metasemi_jax.data.images.files import SUFFIXES
from metasemi_jax.errors import as_user_error, first_ten, reason_of


class ImageWalk:
    """Walks folders below a root; what one call found, a later one does not find again.

    Symbolic links are followed. Left out are hidden files and folders, files whose suffix is not of
    `SUFFIXES`, anything but regular files, and the workdirs of runs, which hold plots.
    """

    def __init__(self, root: Path):
        self._root = os.fspath(root)
        self._owners: dict[str, str] = {}  # real path of a folder, or of a file behind a link -> owner
        self._others: collections.Counter[str] = collections.Counter()  # by suffix
        self._again: list[str] = []
        self._workdirs: list[str] = []

    def below(self, folder: str, owner: str = '') -> list[str]:
        """Paths relative to the root, with '/' and sorted, of the new images in `folder` and below it.

        Args:
          folder: relative to the root; '' for the root itself.
          owner: the name that `owner_of` gives for these images.

        Raises:
          UserError: a folder that cannot be read.
        """
        found, folders, links = [], collections.deque([folder]), collections.deque()
        while folders or links:
            # Links come last: an image with a name of its own here keeps that name.
            name = folders.popleft() if folders else links.popleft()
            if not os.path.isdir(self._path(name)):
                found += [name] if self._is_new_link(name, owner) else []
                continue
            real, entries = self._enter(name, owner)
            for entry in entries:
                child = f'{name}/{entry.name}' if name else entry.name
                if entry.is_symlink():
                    links.append(child)
                elif entry.is_dir():
                    folders.append(child)
                elif self._is_image(child, regular=entry.is_file()):
                    claimed = f'{real}/{entry.name}' in self._owners
                    (self._again if claimed else found).append(child)
        return sorted(found)

    def owner_of(self, folder: str) -> str | None:
        """The owner in the call that walked `folder`; None if none did."""
        return self._owners.get(os.path.realpath(self._path(folder)))

    def left_out(self) -> str:
        """What was left out, in one line for people; '' if nothing was."""
        parts = []
        if self._others:
            counts = first_ten([f'{count:,} {suffix}' for suffix, count in self._others.most_common()])
            kinds = 'PNG, JPEG, BMP, WebP, TIFF and GIF are read'
            parts.append(f'{self._others.total():,} files that are not read as images ({counts}; {kinds})')
        if self._again:
            parts.append(f'{len(self._again):,} links to what counts already ({first_ten(self._again)})')
        if self._workdirs:
            parts.append(f'workdirs of runs ({first_ten(self._workdirs)})')
        return f'{self._root}: left out {"; ".join(parts)}' if parts else ''

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name) if name else self._root

    def _enter(self, name: str, owner: str) -> tuple[str, list[os.DirEntry]]:
        """The real path of a folder, and its entries that are not hidden; none where it was walked before."""
        path = self._path(name)
        real = os.path.realpath(path)
        if real in self._owners:
            self._again.append(f'{name}/')
            return real, []
        with (
            as_user_error(OSError, lambda e: f'{e.filename or path} cannot be read ({reason_of(e)})'),
            os.scandir(path) as scanned,
        ):
            entries = sorted(scanned, key=lambda entry: entry.name)
        if name and is_workdir({entry.name for entry in entries}):
            self._workdirs.append(f'{name}/')
            return real, []
        self._owners[real] = owner
        return real, [entry for entry in entries if entry.name[0] != '.']

    def _is_image(self, name: str, *, regular: bool) -> bool:
        if regular and is_image_name(name):
            return True
        suffix = os.path.splitext(name)[1].lower() or 'without a suffix'
        self._others[suffix if regular else 'that are no regular files'] += 1
        return False

    def _is_new_link(self, name: str, owner: str) -> bool:
        path = self._path(name)
        # A broken link is listed: reading it reports the error.
        if not self._is_image(name, regular=os.path.isfile(path) or not os.path.exists(path)):
            return False
        real = os.path.realpath(path)
        walked = os.path.dirname(real) in self._owners and is_image_name(real)
        if real in self._owners or walked:
            self._again.append(name)
            return False
        self._owners[real] = owner
        return True


def is_image_name(name: str) -> bool:
    """Whether a file of this name or path is read."""
    return os.path.basename(name)[0] != '.' and name.lower().endswith(SUFFIXES)


def is_workdir(names: set[str]) -> bool:
    """Whether a folder with these entries is the workdir of a run."""
    return 'config.json' in names and bool(names & {'labeled_ids.txt', 'checkpoints'})
