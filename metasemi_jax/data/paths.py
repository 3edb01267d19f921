"""Paths as users write them."""

from pathlib import Path

from metasemi_jax.errors import UserError


def user_path(text: str) -> Path:
    """`text` as a path, '~' and '~name' being home folders.

    Raises:
      UserError: there is no such home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f'{text}: there is no such home folder; write the whole path') from error
