"""The one exception that users see, and how its message lists many things."""

from collections.abc import Sequence

SHOWN = 10


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, and what to do."""


def first_ten(names: Sequence[str]) -> str:
    """'a, b, ... and 3 more'."""
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more
