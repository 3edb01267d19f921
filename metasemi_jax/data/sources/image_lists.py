"""Which image files there are, and what is known of each: from a folder or from a CSV file."""

import csv
import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metasemi_jax.data.images.files import SUFFIXES
from metasemi_jax.errors import UserError, first_ten

LAYOUT = 'labeled/<class>/*, unlabeled/** and, if you have one, test/<class>/* and val/<class>/*'
SPLITS = ('train', 'val', 'test')


class ImageFile(NamedTuple):
    """One row of a list."""

    id: str  # where it is: relative to the folder (of the CSV file), with '/'
    label: str  # a class name; '' where it is not known, in `train` alone
    split: str  # of `SPLITS`


def list_folder(root: Path) -> list[ImageFile]:
    """The images of `labeled/<class>/`, `unlabeled/`, `val/<class>/` and `test/<class>/` below `root`.

    Folders below these are searched too. Hidden files, and files whose suffix is not of `SUFFIXES`, are left
    out.

    Raises:
      UserError: no `labeled/`, a class folder or `unlabeled/` without an image, an image in no class folder.
    """
    files, empty = [], []
    for folder, split in (('labeled', 'train'), ('val', 'val'), ('test', 'test')):
        if not (root / folder).is_dir():
            continue
        loose = [path.name for path in (root / folder).iterdir() if path.is_file() and _is_image(path.name)]
        if loose:
            raise UserError(
                f'{root}: {folder}/ holds {len(loose):,} images that are in no class folder, the first '
                f"'{min(loose)}'; the layout is {LAYOUT}"
            )
        classes = sorted(p.name for p in (root / folder).iterdir() if p.is_dir() and p.name[0] != '.')
        if not classes:
            empty.append(f'{folder}/')
        for label in classes:
            found = _images_below(root, f'{folder}/{label}')
            files.extend(ImageFile(name, label, split) for name in found)
            if not found:
                empty.append(f'{folder}/{label}/')
    if not (root / 'labeled').is_dir():
        raise UserError(f'{root} holds no folder labeled/; the layout is {LAYOUT}')
    if (root / 'unlabeled').is_dir():
        found = _images_below(root, 'unlabeled')
        files.extend(ImageFile(name, '', 'train') for name in found)
        if not found:
            empty.append('unlabeled/')
    if empty:
        raise UserError(f'{root}: no image ({", ".join(SUFFIXES)}) in {first_ten(empty)}; fill or delete it')
    return files


def list_csv(path: Path) -> list[ImageFile]:
    """The images of a CSV file with a header and the columns `path`, `label` and, if wanted, `split`.

    A path is relative to the folder of the file. An empty label means unlabeled, an empty split `train`.

    Raises:
      UserError: columns, rows or splits of another form, or files that do not exist.
    """
    try:
        # Excel writes a byte order mark.
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or [])
            files = [_csv_row(path, reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f'{path} is not a CSV file in UTF-8 ({error})') from error
    if not files:
        raise UserError(f'{path} names no image; a row is path,label')
    missing = [file.id for file in files if not (path.parent / file.id).is_file()]
    if missing:
        raise UserError(
            f'{path} names {len(missing):,} files that do not exist in {path.parent}: {first_ten(missing)}'
        )
    return files


def list_below(folder: Path) -> list[Path]:
    """Every image in `folder` and below it, in the order of their names; hidden ones are left out."""
    return [folder / name for name in _images_below(folder, '')]


def check_ids(source: str, ids: list[str]) -> None:
    """Refuse ids named twice, and those that a list of one id a line could not hold."""
    seen, twice = set(), []
    for name in ids:
        (twice.append if name in seen else seen.add)(name)
    if twice:
        raise UserError(f'{source} names {len(twice):,} images twice: {first_ten(twice)}; name each once')
    for name in ids:
        if len(name.splitlines()) != 1 or name != name.strip() or not _is_utf8(name):
            raise UserError(
                f'{source}: the file name {name!r} has a line break, a space at an end, or '
                'is not UTF-8; rename it'
            )


def _is_utf8(name: str) -> bool:
    # Python reads other bytes of a file name as lone surrogates.
    return not any('\ud800' <= letter <= '\udfff' for letter in name)


def _is_image(name: str) -> bool:
    return name[0] != '.' and name.lower().endswith(SUFFIXES)


def _images_below(root: Path, folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f'{error.filename} cannot be read ({error.strerror})') from error

    found = []
    # Folders of images are often links to another disk.
    for parent, folders, names in os.walk(root / folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if name[0] != '.']
        below = Path(parent).relative_to(root).as_posix()
        found.extend(f'{below}/{name}' for name in names if _is_image(name))
    return sorted(found)


def _check_columns(path: Path, columns: list[str]) -> None:
    unknown = [name for name in columns if name not in ('path', 'label', 'split')]
    missing = [name for name in ('path', 'label') if name not in columns]
    if unknown or missing:
        raise UserError(
            f'{path}: the first line must name the columns path,label or path,label,split; '
            f"it is '{','.join(columns)}'"
        )


def _csv_row(path: Path, line: int, row: dict[str, str]) -> ImageFile:
    # DictReader fills a short row with None and puts what is left over under None.
    if None in row or None in row.values():
        raise UserError(f'{path}, line {line}: a row must have as many fields as the first line')
    name, label, split = row['path'].strip(), row['label'].strip(), row.get('split', '').strip() or 'train'
    if not name:
        raise UserError(f'{path}, line {line}: the path is empty')
    if split not in SPLITS:
        raise UserError(f"{path}, line {line}: the split '{split}' is unknown; use train, val or test")
    if split != 'train' and not label:
        raise UserError(f'{path}, line {line}: an image of the split {split} needs a label')
    # './a.png' and 'b/../a.png' are the image 'a.png'.
    normal = PurePosixPath(os.path.normpath(name)).as_posix()
    return ImageFile(normal, label, split)
