"""The ten predefined folds of STL-10, 1,000 labeled images each, as files that `data.split_file` names."""

from pathlib import Path

from metasemi_jax.data.sources.stl10_archive import ARCHIVE, FOLDS, folds_folder, keep_folds, read_stl10
from metasemi_jax.data.sources.tfds_prepare import find_original, originals_folder
from metasemi_jax.data.sources.tfds_store import data_root, readable_errors
from metasemi_jax.errors import UserError

NAME = 'stl10'

__all__ = ['FOLDS', 'fold_file']


def fold_file(name: str, *, data_dir: str = '', manual_dir: str = '') -> Path:
    """The file `name` of `FOLDS`: positions in the training images, which preparing STL-10 has kept.

    Where another program has prepared it, the folds are read from the archive.

    Raises:
      UserError: neither the file nor the archive is there.
    """
    root = data_root(data_dir)
    path = folds_folder(root) / name
    if not path.exists():
        archive = find_original(NAME, ARCHIVE, root, originals_folder(NAME, root, manual_dir))
        if archive is None:
            raise UserError(
                f'data.split_file={name}: the folds of STL-10 are in {ARCHIVE}, which is not there any more; '
                'put it into a folder and name that with data.manual_dir='
            )
        with readable_errors(NAME, root, needed='100 kB'):
            keep_folds(root, read_stl10(archive).folds)
    return path
