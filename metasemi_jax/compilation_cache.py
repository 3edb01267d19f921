"""JAX's persistent compilation cache: a second start of the same run compiles nothing."""

import os
import sys
import tempfile
from pathlib import Path

import jax


def enable_compilation_cache() -> None:
    """Cache programs under ~/.cache/metasemi_jax, unless JAX_COMPILATION_CACHE_DIR names a folder."""
    folder = jax.config.jax_compilation_cache_dir
    if folder is None:
        caches = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
        folder = os.path.join(caches, 'metasemi_jax', 'xla')
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        print(f'no compilation cache: {folder} cannot be written ({error.strerror})', file=sys.stderr)
        jax.config.update('jax_enable_compilation_cache', False)
        return
    jax.config.update('jax_compilation_cache_dir', folder)
    # Every program, not only what takes JAX's default of a second: a start compiles dozens of small ones.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
