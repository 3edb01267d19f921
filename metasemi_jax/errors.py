"""The exceptions that users see, and how their messages list many things."""

from collections.abc import Sequence

SHOWN = 10


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, and what to do."""


class DivergedError(UserError):
    """The loss or the weights are no longer finite numbers, after so many `rollbacks` of the run."""

    def __init__(self, what: str, advice: str, *, rollbacks: int):
        super().__init__(f'{what}. {advice}')
        self.what = what
        self.rollbacks = rollbacks


def first_ten(names: Sequence[str]) -> str:
    """'a, b, ... and 3 more'."""
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more
