"""The published lists of ImageNet's labeled images: SimCLR's 10percent.txt and 1percent.txt."""

import hashlib
from pathlib import Path

from metasemi_jax.data.sources.original_files import Original, check_network, check_originals, originals_of
from metasemi_jax.data.sources.tfds_store import data_root, manual_folder
from metasemi_jax.errors import UserError, as_user_error, reason_of
from metasemi_jax.files import write_atomically

SUBSETS = ('10percent.txt', '1percent.txt')
SECONDS = 60


def subset_file(name: str, *, data_dir: str = '', manual_dir: str = '') -> Path:
    """The list `name` of `SUBSETS`: from `manual_dir`, or downloaded once, verified by TFDS's checksum.

    Raises:
      UserError: it is damaged, or it is not there and cannot be downloaded.
    """
    import tensorflow_datasets as tfds

    root = data_root(data_dir)
    downloads, manual = root / 'downloads', manual_folder(root, manual_dir)
    (original,) = originals_of(tfds.builder_cls('imagenet2012_subset').url_infos, (name,))
    for folder in (manual, downloads):
        if not check_originals('imagenet2012', folder, [original], required=False):
            return folder / name
    check_network('imagenet2012', manual, [original])
    return _download(original, downloads)


def _download(original: Original, folder: Path) -> Path:
    import requests

    broken = f'imagenet2012: cannot download {original.url}'
    with as_user_error(requests.RequestException, lambda error: f'{broken} ({error}); start again'):
        response = requests.get(original.url, timeout=SECONDS)
        response.raise_for_status()
    sha256 = hashlib.sha256(response.content).hexdigest()
    if sha256 != original.sha256:
        raise UserError(f'imagenet2012: {original.url} has the SHA-256 {sha256}, not {original.sha256}')
    advice = 'use another folder with data.data_dir='
    unwritten = f'imagenet2012: {folder} cannot be written'
    with as_user_error(OSError, lambda error: f'{unwritten} ({reason_of(error)}); {advice}'):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / original.name, response.content)
    return folder / original.name
