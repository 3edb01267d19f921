"""Paths as users write them."""

from pathlib import Path

from metasemi_jax.errors import as_user_error


def user_path(text: str) -> Path:
    """`text` as a path, '~' and '~name' being home folders.

    Raises:
      UserError: there is no such home folder.
    """
    with as_user_error(RuntimeError, f'{text}: there is no such home folder; write the whole path'):
        return Path(text).expanduser()
