"""What Orbax 0.12.8 makes necessary; a later version may need none of it."""

import functools
import inspect
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from metasemi_jax.progress import logging_level


@functools.cache
def silence_orphans() -> None:
    """Keep the coroutines off stderr that Orbax abandons when a checkpoint cannot be read or written.

    Orbax raises the first failure and awaits none of the other coroutines. asyncio and Python would report
    each of them with a page.
    """
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
    hook = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if not inspect.iscoroutine(unraisable.object) and str(unraisable.exc_value) != 'Event loop is closed':
            hook(unraisable)

    sys.unraisablehook = quiet


def saved_tree(folder: Path) -> dict[str, Any]:
    """Shapes and dtypes of a saved state, without the warning of a file that `StandardSave` never writes."""
    with logging_level('absl', logging.ERROR), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.metadata(folder).item_metadata.tree


def steps_without_listing(folder: Path) -> list[int]:
    """Steps with damaged metrics; if there is one, `CheckpointManager` opens no checkpoint of the folder."""
    damaged = []
    for path in folder.glob('*/metrics/metrics'):
        try:
            float(json.loads(path.read_bytes())['error'])
        except (ValueError, KeyError, TypeError, RecursionError, FileNotFoundError, IsADirectoryError):
            damaged.append(int(path.parts[-3]))
    return sorted(damaged)
