"""TFDS's own downloads and builders (4.9.10), run without TensorFlow.

The builders open files, unpack archives and encode PNGs by TensorFlow (1.3 GB). While one of them prepares a
dataset, a function replaces its `_split_generators`, reads the archive with SciPy or tarfile and yields
encoded images. Keys, ids and labels are TFDS's, hence the order too; name, version, features, checksums and
shards are the stock builder's. A subclass would not do: TFDS refuses a second class of the same name.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from metasemi_jax.data.sources.archives import ArchiveSplit
from metasemi_jax.data.sources.download_watch import watch_downloads
from metasemi_jax.data.sources.original_files import (
    Original,
    check_network,
    check_originals,
    innermost,
    originals_of,
)
from metasemi_jax.data.sources.tfds_recipes import RECIPES
from metasemi_jax.data.sources.tfds_store import manual_folder
from metasemi_jax.data.sources.tfds_workarounds import network_patience, quiet_tfds, written_error
from metasemi_jax.errors import as_user_error, reason_of


def stock_builder(name: str, data_dir: Path) -> Any:
    """TFDS's builder of `name`, at the version of its recipe."""
    import tensorflow_datasets as tfds

    return tfds.builder_cls(name)(data_dir=str(data_dir), version=RECIPES[name].version)


def check_sources(name: str, data_dir: Path, manual_dir: Path, *, required: bool) -> None:
    """Whether `prepare` will find, or can download, what `name` is made of; writes nothing.

    Args:
      name: TFDS name of the dataset.
      data_dir: folder of prepared TFDS datasets and of downloads.
      manual_dir: folder in which the user may have put the original files.
      required: whether they must all be there.

    Raises:
      UserError: a file is damaged, or missing and required, or missing and the network is out of reach.
    """
    import tensorflow_datasets as tfds

    originals = originals_of(tfds.builder_cls(name).url_infos, RECIPES[name].files)
    missing = check_originals(name, manual_dir, originals, required=required)
    missing = [original for original in missing if _downloaded(data_dir, name, original) is None]
    if missing:
        check_network(name, manual_dir, missing)


def originals_folder(name: str, root: Path, manual_dir: str) -> Path:
    """Folder in which the user may have put the original files of `name`.

    `manual_dir`, by default TFDS's own `downloads/manual` in `root`; or the folder `name` in it where there
    is one, since MNIST and Fashion-MNIST call their files alike.
    """
    folder = manual_folder(root, manual_dir)
    return folder / name if (folder / name).is_dir() else folder


def find_original(name: str, file: str, root: Path, folder: Path) -> Path | None:
    """The original `file` of `name` in `folder`, or where TFDS has downloaded it below `root`."""
    import tensorflow_datasets as tfds

    if (folder / file).is_file():
        return folder / file
    return _downloaded(root, name, *originals_of(tfds.builder_cls(name).url_infos, (file,)))


def _downloaded(root: Path, name: str, original: Original) -> Path | None:
    from tensorflow_datasets.core.download import resource

    file = resource.get_dl_fname(original.url, original.sha256)
    downloads = root / 'downloads'
    # Older versions of TFDS had no folder for each dataset.
    paths = (downloads / name / file, downloads / file)
    return next((path for path in paths if resource.is_locally_cached(path)), None)


def read_originals(builder: Any, manual_dir: Path) -> dict[str, ArchiveSplit]:
    """The splits of the original files of a dataset; `builder` gets its class names.

    Args:
      builder: a TFDS builder of a dataset of `RECIPES`.
      manual_dir: original files in it are used, the others are downloaded.
    """
    import tensorflow_datasets as tfds

    with _tfds_at_work(builder):
        manager = tfds.download.DownloadManager(
            download_dir=_downloads(builder),
            manual_dir=manual_dir,
            url_infos=builder.url_infos,
            dataset_name=builder.name,
        )
        return _contents(builder, manager)


def prepare(builder: Any, manual_dir: Path, count: Callable[[int], None]) -> None:
    """Write the dataset of `builder` into its folder, as array_record, all or nothing.

    Args:
      builder: a TFDS builder of a dataset of `RECIPES` whose folder does not exist.
      manual_dir: original files in it are used, the others are downloaded.
      count: as for `ImageCounter`.

    Raises:
      UserError: a download that fails, or an archive that cannot be read.
      OSError: the disk is full, or the folder cannot be written.
    """
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=str(manual_dir), try_download_gcs=False)
    # The builder's own `_split_generators` needs TensorFlow.
    splits = functools.partialmethod(_split_generators, count)
    with mock.patch.object(type(builder), '_split_generators', splits), _tfds_at_work(builder):
        builder.download_and_prepare(download_config=config, file_format='array_record')


@contextlib.contextmanager
def _tfds_at_work(builder: Any) -> Iterator[None]:
    """Show TFDS's downloads as our own, and turn what it raises into a UserError or an OSError."""
    import requests
    import tensorflow_datasets as tfds

    name = builder.name
    broken = (requests.RequestException, tfds.download.DownloadError)
    damaged = tfds.core.download.download_manager.NonMatchingChecksumError
    with (
        watch_downloads(name, _downloads(builder) / name),
        network_patience(),
        quiet_tfds(),
        as_user_error(broken, lambda e: f'{name}: the download broke off ({innermost(e)}); start again'),
        as_user_error(damaged, lambda e: f'{name}: a download has the wrong checksum ({reason_of(e)})'),
    ):
        try:
            yield
        except RuntimeError as error:
            raise written_error(error) from error


def _downloads(builder: Any) -> Path:
    return Path(builder.data_path).parents[1] / 'downloads'


def _contents(builder: Any, manager: Any) -> dict[str, ArchiveSplit]:
    """The splits of the files that TFDS's download `manager` finds or downloads."""
    recipe = RECIPES[builder.name]
    urls = {info.filename: url for url, info in builder.url_infos.items()}
    paths = manager.download({file: urls[file] for file in recipe.files})
    splits, class_names = recipe.read(lambda file: Path(paths[file]), _downloads(builder).parent)
    for feature, names in class_names.items():
        builder.info.features[feature].names = names
    return splits


def _split_generators(builder: Any, count: Callable[[int], None], dl_manager: Any) -> dict[str, Iterator]:
    recipe = RECIPES[builder.name]
    splits = _contents(builder, dl_manager)
    total = sum(len(split.images) for split in splits.values())
    digits = recipe.id_digits if recipe.has_ids else 0
    return {
        name: _examples(f'{name}_', split, digits, lambda: count(total)) for name, split in splits.items()
    }


def _examples(prefix: str, split: ArchiveSplit, digits: int, count: Callable[[], None]) -> Iterator:
    for i, image in enumerate(split.images):
        count()
        labels = {feature: int(values[i]) for feature, values in split.labels.items()}
        ids = {'id': f'{prefix}{i:0{digits}d}'} if digits else {}
        yield i, {'image': _png(image), **ids, **labels}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    # Uncompressed: compression saves a quarter of the bytes of so small an image, and takes half of the time.
    # Pillow takes grey images without a channel axis.
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, 'PNG', compress_level=0)
    return file.getvalue()
