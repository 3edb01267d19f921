"""Paths as users write them."""

from pathlib import Path

from metasemi_jax.errors import UserError, as_user_error


def user_path(text: str) -> Path:
    """`text` as a path, '~' and '~name' being home folders.

    Raises:
      UserError: there is no such home folder.
    """
    with as_user_error(RuntimeError, f'{text}: there is no such home folder; write the whole path'):
        return Path(text).expanduser()


def images_path(text: str) -> Path:
    """`user_path` of a file or folder of images; refuses what is neither."""
    path = user_path(text)
    if not path.exists():
        raise UserError(f'{text}: there is no such file or folder (seen from {Path.cwd()})')
    if not path.is_file() and not path.is_dir():
        raise UserError(f'{text} is neither a file nor a folder; save the images as files')
    return path
