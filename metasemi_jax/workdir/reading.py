"""Reads the small files of a run, which people may have edited, or a copy cut short.

What is wrong is named by file and field, with the way to get the file back.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from metasemi_jax.errors import UserError, as_user_error, reason_of

# Each start of a run writes what `create` writes; for a finished run it trains nothing.
REWRITE = 'start the command that trained this run again: it writes the file, and trains no finished run anew'
RESTORE = 'no command can write it again: put back a copy, or use another workdir'
REDRAW = (
    'delete labeled_ids.txt and validation_ids.txt, and start the command that trained this run again: it '
    'draws the same split'
)


def read_json(path: Path, remedy: str = RESTORE, kind: type = dict) -> Any:
    """Parse a file of ours.

    Args:
      remedy: advice for messages: how to get the file back.

    Raises:
      UserError: it cannot be read, is not JSON, or holds another `kind` of value.
    """
    text = read_text(path, remedy)
    # An int of thousands of digits, or lists nested thousands deep.
    with naming(path, remedy), as_user_error((ValueError, RecursionError), str):
        value = json.loads(text)
        if not isinstance(value, kind):
            raise UserError(f'it holds a {type(value).__name__}')
    return value


def naming(path: Path, remedy: str) -> contextlib.AbstractContextManager[None]:
    """Add the path, and how to restore the file, to a UserError about one of its fields."""
    return as_user_error(UserError, lambda error: f'{path} is damaged ({reason_of(error)}); {remedy}')


def read_text(path: Path, remedy: str) -> str:
    """The text of a file of ours in UTF-8; `remedy` as for `read_json`."""
    # The file may be whole.
    unread = f'{path} cannot be read'
    with as_user_error(OSError, lambda error: f'{unread} ({reason_of(error)}); mend that, and start again'):
        # Reading a pipe would wait forever.
        content = path.read_bytes() if path.is_file() else None
    with naming(path, remedy), as_user_error(UnicodeDecodeError, str):
        if content is None:
            raise UserError('it is no file')
        return content.decode()
