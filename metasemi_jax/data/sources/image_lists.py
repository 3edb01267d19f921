"""Lists of image files with their labels and splits, from a folder or a CSV file."""

import csv
import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metasemi_jax.data.images.files import SUFFIXES
from metasemi_jax.data.sources.image_walk import ImageWalk, is_image_name, is_workdir
from metasemi_jax.errors import UserError, as_user_error, first_ten

LAYOUT = 'labeled/<class>/*, unlabeled/** and, if you have one, test/<class>/* and val/<class>/*'
LISTED_SPLITS = ('train', 'val', 'test')


class ImageFile(NamedTuple):
    """One row of a list."""

    id: str  # path relative to the folder (of the CSV file), with '/'
    label: str  # a class name; '' if unknown, in `train` alone
    split: str  # of `LISTED_SPLITS`


class Listing(NamedTuple):
    """The images of a folder or CSV file."""

    files: list[ImageFile]
    left_out: str = ''  # one line for people


def list_folder(root: Path) -> Listing:
    """The images of `labeled/<class>/`, `unlabeled/`, `val/<class>/` and `test/<class>/` below `root`.

    Folders below these are searched too; `ImageWalk` says which files are images. An image that several links
    lead to counts once: in the first of test, val, labeled and unlabeled that has it.

    Raises:
      UserError: no `labeled/`, a class folder or `unlabeled/` without an image, an image in no class folder
        or in two.
    """
    if not (root / 'labeled').is_dir():
        raise UserError(f'{root} holds no folder labeled/; the layout is {LAYOUT}')
    walk, files, empty = ImageWalk(root), [], []
    for folder, split in (('test', 'test'), ('val', 'val'), ('labeled', 'train')):
        for label in _class_folders(root, folder):
            owner = walk.owner_of(f'{folder}/{label}')
            if owner and owner.partition('/')[0] == folder:
                raise UserError(
                    f'{root}: links make {folder}/{label}/ and {owner}/ the same images, and one has one '
                    'class; remove one of them'
                )
            found = walk.below(f'{folder}/{label}', f'{folder}/{label}')
            files.extend(ImageFile(name, label, split) for name in found)
            if not found:
                empty.append(f'{folder}/{label}/')
        if (root / folder).is_dir() and not _class_folders(root, folder):
            empty.append(f'{folder}/')
    if (root / 'unlabeled').is_dir():
        found = walk.below('unlabeled', 'unlabeled')
        files.extend(ImageFile(name, '', 'train') for name in found)
        if not found:
            empty.append('unlabeled/')
    left_out = walk.left_out()
    if empty:
        raise UserError(
            f'{root}: no image ({", ".join(SUFFIXES)}) in {first_ten(sorted(empty))}; fill or delete it'
            + (f' ({left_out.removeprefix(f"{root}: ")})' if left_out else '')
        )
    # Runs of earlier versions have their ids in this order.
    order = {'labeled': 0, 'val': 1, 'test': 2, 'unlabeled': 3}
    return Listing(sorted(files, key=lambda file: order[file.id.partition('/')[0]]), left_out)


def _class_folders(root: Path, folder: str) -> list[str]:
    """Names of the folders in `folder`, which may be missing; refuses images beside them."""
    if not (root / folder).is_dir():
        return []
    entries = [path for path in (root / folder).iterdir() if path.name[0] != '.']
    loose = [path.name for path in entries if path.is_file() and is_image_name(path.name)]
    if loose:
        raise UserError(
            f'{root}: {folder}/ holds {len(loose):,} images that are in no class folder, the first '
            f"'{min(loose)}'; the layout is {LAYOUT}"
        )
    folders = [path for path in entries if path.is_dir()]
    return sorted(path.name for path in folders if not is_workdir({*os.listdir(path)}))


def list_csv(path: Path) -> Listing:
    """The images of a CSV file with a header and the columns `path`, `label` and, if wanted, `split`.

    A path is relative to the folder of the file. An empty label means unlabeled, an empty split `train`.

    Raises:
      UserError: columns, rows or splits of another form, files that do not exist or are named twice, by
        whatever path.
    """
    unlike = (csv.Error, UnicodeDecodeError)
    with (
        as_user_error(unlike, lambda error: f'{path} is not a CSV file in UTF-8 ({error})'),
        # Excel writes a byte order mark.
        path.open(newline='', encoding='utf-8-sig') as file,
    ):
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, reader.fieldnames or [])
        files = [_csv_row(path, reader.line_num, row) for row in reader]
    if not files:
        raise UserError(f'{path} names no image; a row is path,label')
    missing = [file.id for file in files if not (path.parent / file.id).is_file()]
    if missing:
        raise UserError(
            f'{path} names {len(missing):,} files that do not exist in {path.parent}: {first_ten(missing)}; '
            "give paths that are relative to the list's folder"
        )
    check_ids(str(path), [file.id for file in files])
    _check_links(path, files)
    return Listing(files)


def list_below(folder: Path) -> tuple[list[Path], str]:
    """Every image of an `ImageWalk` below `folder`, sorted, and what was left out, in a line for people."""
    walk = ImageWalk(folder)
    return [folder / name for name in walk.below('')], walk.left_out()


def check_ids(source: str, ids: list[str]) -> None:
    """Refuse ids named twice, and those that a list of one id a line could not hold."""
    seen, twice = set(), []
    for name in ids:
        (twice.append if name in seen else seen.add)(name)
    if twice:
        raise UserError(f'{source} names {len(twice):,} images twice: {first_ten(twice)}; name each once')
    for name in ids:
        # Python reads bytes that are not UTF-8 as lone surrogates.
        foreign = any('\ud800' <= letter <= '\udfff' for letter in name)
        if len(name.splitlines()) != 1 or name != name.strip() or foreign:
            raise UserError(
                f'{source}: the file name {name!r} has a line break, a space at an end, or '
                'is not UTF-8; rename it'
            )


def _check_links(path: Path, files: list[ImageFile]) -> None:
    """Refuse two rows that links make the same image: one may be trained on, the other tested on."""
    parents = {os.path.dirname(file.id) for file in files}
    folders = {parent: os.path.realpath(path.parent / parent) for parent in parents}
    first: dict[str, str] = {}
    for file in files:
        parent, name = os.path.split(file.id)
        real = f'{folders[parent]}/{name}'
        real = os.path.realpath(real) if os.path.islink(real) else real
        if first.setdefault(real, file.id) != file.id:
            raise UserError(
                f'{path} names one image twice: {file.id} and {first[real]} are the same file, by a link; '
                'name each once'
            )


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
    if split not in LISTED_SPLITS:
        raise UserError(f"{path}, line {line}: the split '{split}' is unknown; use train, val or test")
    if split != 'train' and not label:
        raise UserError(f'{path}, line {line}: an image of the split {split} needs a label')
    # './a.png' and 'b/../a.png' are the image 'a.png'.
    normal = PurePosixPath(os.path.normpath(name)).as_posix()
    return ImageFile(normal, label, split)
