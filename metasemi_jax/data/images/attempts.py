"""Tries every image, and reports all that cannot be read together."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from metasemi_jax.data.images.decode import reason
from metasemi_jax.data.images.parallel import in_threads
from metasemi_jax.errors import UserError, first_ten
from metasemi_jax.progress import ImageCounter, ProgressLine


def attempts(function: Callable[[int], Any], numbers: Sequence[int], reasons: dict[int, str]) -> Iterator:
    """`function` of each number, in order, by threads; None, and an entry in `reasons`, where it fails."""

    def attempt(i: int) -> Any:
        try:
            return function(i)
        # Pillow fails on damaged files with SyntaxError, struct.error and others; so does array_record.
        except Exception as error:
            reasons[i] = reason(error)
            return None

    return in_threads(attempt, numbers)


def check_all(
    check: Callable[[int], Any], names: Sequence[str], line: ProgressLine, source: str, advice: str
) -> None:
    """`check` every image, and refuse images on which it fails; `names` are read at the end.

    Raises:
      UserError: see `refuse_bad`.
    """
    reasons: dict[int, str] = {}
    count = ImageCounter(line, f'{source}: checked')
    for _ in attempts(check, range(len(names)), reasons):
        count(len(names))
    refuse_bad(names.__getitem__, reasons, len(names), source, advice)


def refuse_bad(
    name: Callable[[int], str], reasons: dict[int, str], total: int, source: str, advice: str
) -> None:
    """Raise a UserError, from `source` to `advice`, if there are `reasons`, by number, not to read images."""
    if reasons:
        bad = first_ten([f'{name(i)} ({reasons[i]})' for i in sorted(reasons)])
        raise UserError(f'{source}: {len(reasons):,} of {total:,} images cannot be read: {bad}; {advice}')
