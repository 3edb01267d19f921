"""The exceptions that users see, and how their messages list many things."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SHOWN = 10


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, and what to do.

    What a function says it will refuse raises it, naming the field, file or limit.
    """


class DivergedError(UserError):
    """The loss or the weights are no longer finite numbers, after so many `rollbacks` of the run."""

    def __init__(self, what: str, advice: str, *, rollbacks: int):
        super().__init__(f'{what}. {advice}')
        self.what = what
        self.rollbacks = rollbacks


@contextlib.contextmanager
def as_user_error(
    kinds: type[BaseException] | tuple[type[BaseException], ...], message: str | Callable[[Any], str]
) -> Iterator[None]:
    """Make an exception of `kinds` in the block a UserError; `message`: its text, or error -> text."""
    try:
        yield
    except kinds as error:
        raise UserError(message if isinstance(message, str) else message(error)) from error


def reason_of(error: BaseException) -> str:
    """What an exception says, on one line; of the system's errors neither the number nor the file."""
    return getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__


def printable(name: str) -> str:
    """`name`, perhaps a file's of bytes that are not UTF-8, as text that every file in UTF-8 takes."""
    try:
        # Not `os.fsencode`: with LC_ALL=C it refuses every other letter than English ones.
        text = name.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:  # half a character, as JSON may spell it
        text = name.encode(errors='replace')
    return text.decode(errors='replace')


def first_ten(names: Sequence[str]) -> str:
    """'a, b, ... and 3 more'."""
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more
