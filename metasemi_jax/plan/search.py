"""The largest batch that a machine has room for."""

from collections.abc import Callable
from typing import NamedTuple

MOST_TRIES = 5


class Room(NamedTuple):
    """What was found."""

    fits: int  # the largest batch tried that fits; 0 for none
    too_large: int  # the smallest tried that does not


def largest_batch(
    fits: Callable[[int], bool], batch_size: int, num_devices: int, *, share: float | None = None
) -> Room:
    """Try batches that `num_devices` share evenly, at most `MOST_TRIES` of them.

    It ends where the two are neighbours, or within a sixteenth.

    Args:
      fits: whether a batch fits; takes long.
      batch_size: a batch that does not.
      num_devices: devices that share a batch evenly.
      share: memory there is, as a share of what `batch_size` wants: the first guess; None where unknown.
    """
    low, high = 0, batch_size
    guess = low if share is None else int(batch_size * share)
    for _ in range(MOST_TRIES):
        if high - low <= max(num_devices, low // 16):
            break
        if not low < guess < high:
            guess = (low + high) // 2
        guess = max(low + num_devices, guess // num_devices * num_devices)
        if guess >= high:
            break
        if fits(guess):
            low = guess
        else:
            high = guess
        guess = (low + high) // 2
    return Room(low, high)
