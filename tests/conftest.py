import os
from pathlib import Path

# Set before JAX is imported, and inherited by the commands that tests start: most of the suite's time would
# go into compiling the same few programs in every process.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parent.parent / '.pytest_cache' / 'xla')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

import jax
import pytest

from metasemi_jax.progress import speaking

jax.config.update('jax_numpy_dtype_promotion', 'strict')


def pytest_collection_modifyitems(items):
    """The files with long tests first, lest one worker end up with the last of them."""
    long = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def _speaking():
    """As in a command: many tests read what a run says."""
    with speaking():
        yield


@pytest.fixture
def x64():
    """Float64 for one test."""
    before = jax.config.jax_enable_x64
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', before)


@pytest.fixture(scope='module')
def quick_compilation():
    """For programs that run once on small inputs: XLA skips what makes code fast."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='session', autouse=True)
def _own_user_cache(tmp_path_factory):
    """What programs remember in the user's cache: not the developer's, and not from one run to the next."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
