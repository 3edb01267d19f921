"""How much memory there is."""

import contextlib
import os
from pathlib import Path

CGROUP_LIMIT = Path('/sys/fs/cgroup/memory.max')  # of a container; 'max' where there is none


def machine_memory() -> int:
    """Bytes that this machine, or the container on it, has in all."""
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return total
