"""Where programs keep what they could make again."""

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """The folder `name` below ~/.cache/metasemi_jax, or below $XDG_CACHE_HOME/metasemi_jax; not made here."""
    caches = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(caches, 'metasemi_jax', name)
