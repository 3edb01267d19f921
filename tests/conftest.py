import os
from pathlib import Path

# Set before JAX is imported, and inherited by the commands that tests start: most of the suite's time would
# go into compiling the same few programs in every process.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parent.parent / '.pytest_cache' / 'xla')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
# Nearly every program here runs a few times on small inputs: what makes code fast costs more than it saves.
# `JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= make test` compiles as users do.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ.setdefault(
    'XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)

import jax
import pytest

jax.config.update('jax_numpy_dtype_promotion', 'strict')


def pytest_collection_modifyitems(items):
    """The files with long tests first, lest one worker end up with the last of them."""
    long = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def x64():
    """Float64 for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', before)


@pytest.fixture(scope='session', autouse=True)
def _own_user_cache(tmp_path_factory):
    """What programs remember in the user's cache: not the developer's, and not from one run to the next."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
