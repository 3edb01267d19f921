"""A split read from a file: a list of ours, or the official program's."""

import re
from collections.abc import Sequence

from metasemi_jax.data.paths import user_path
from metasemi_jax.errors import UserError, as_user_error, first_ten, reason_of


def read_split_file(path: str, ids: Sequence[str]) -> list[str]:
    """The labeled ids that a file names, sorted.

    It is either one id a line, as in the `labeled_ids.txt` of a run, or the official program's
    `label_indices.txt`: positions in the original training file, integers between any white space. Positions
    are known where the ids hold them, zero-padded: those of TFDS datasets ('train_000123'), digits ('0123')
    and .npz files ('000123'). The position is then the number in the id; of 'train_' where there are others
    ('unlabelled_000123'). Where the ids are file names (imagenet2012), paths that end in them serve too, and
    a label after a name or path is left out.

    Args:
      ids: unique ids of the training images.

    Raises:
      UserError: no such file, or one that is empty, names an image twice, or one that `ids` does not hold.
    """
    source = f'data.split_file={path}'
    unlike = (OSError, UnicodeDecodeError)
    with as_user_error(unlike, lambda error: f'{source} cannot be read ({reason_of(error)})'):
        text = user_path(path).read_text(encoding='utf-8')
    names = [line for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f'{source} is empty; name one labeled image a line')
    known = {*ids}
    if not {*names} <= known:
        # ImageNet's ids are file names; programs that unpacked its archives list paths, some with labels.
        bare = [name.split()[0].rpartition('/')[2] for name in names]
        if all(token.isdecimal() for token in text.split()):
            names = _by_position(source, [int(token) for token in text.split()], ids)
        elif {*bare} <= known:
            names = bare
    unknown = sorted({*names} - known)
    if unknown:
        raise UserError(
            f'{source} names {len(unknown):,} images that the training set does not hold: '
            f'{first_ten(unknown)}'
        )
    if len({*names}) < len(names):
        raise UserError(f'{source} names an image twice; name each labeled image once')
    return sorted(names)


def _by_position(source: str, positions: list[int], ids: Sequence[str]) -> list[str]:
    in_train = [name for name in ids if name.startswith('train_')]
    forms = [re.fullmatch(r'(?:[a-z]+_)?(\d+)', name) for name in in_train or ids]
    if not all(forms):
        raise UserError(
            f"{source} holds positions, but the ids of these images are no positions ('{ids[0]}' is one); "
            'name an id a line'
        )
    id_at = {int(form[1]): str(name) for form, name in zip(forms, in_train or ids, strict=True)}
    unknown = sorted({*positions} - id_at.keys())
    if unknown:
        raise UserError(
            f'{source} names {len(unknown):,} positions that the training set does not hold: '
            f'{first_ten([str(position) for position in unknown])}'
        )
    return [id_at[position] for position in positions]
