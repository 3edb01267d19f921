import collections
import itertools
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

# Set before JAX is imported, and inherited by the commands that tests start: most of the suite's time would
# go into compiling the same few programs in every process.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parent.parent / '.pytest_cache' / 'xla')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
# Nearly every program here runs a few times on small inputs: what makes code fast costs more than it saves.
# `make test JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=` compiles as users do.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# XLA ends a process whose XLA_FLAGS it does not know, as jaxlib 0.11 does not know the second.
os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_parallel_codegen_split_count=1'
    + (' --xla_cpu_use_fusion_emitters=false' if version('jaxlib').startswith('0.10.') else ''),
)

import jax
import pytest

from metasemi_jax.progress import speaking

# An accelerator computes in bfloat16 by default, which Flax's BatchNorm mixes with float32.
if jax.default_backend() == 'cpu':
    jax.config.update('jax_numpy_dtype_promotion', 'strict')


MOST_QUICK_SECONDS = 0.5
LEAST_RECORDED = 0.5  # seconds
SECONDS = Path(__file__).parent / 'data' / 'seconds.json'


def pytest_addoption(parser):
    parser.addoption('--quick', action='store_true', help='only tests that take up to half a second')
    parser.addoption('--record-seconds', action='store_true', help=f'write {SECONDS.name} anew, of all tests')


def pytest_collection_modifyitems(config, items):
    """The files that take longest first, lest one worker end up with the last of them."""
    recorded = json.loads(SECONDS.read_text())
    fixtures = {item: [name for name in fixtures_of(item) if name in recorded] for item in items}
    users = collections.Counter(itertools.chain.from_iterable(fixtures.values()))
    # What several tests share is charged to each in equal parts, not to the one that comes first.
    seconds = {
        item: recorded.get(name_of(item.nodeid), 0) + sum(recorded[name] / users[name] for name in shared)
        for item, shared in fixtures.items()
    }
    of_file = collections.Counter()
    for item, time_ in seconds.items():
        of_file[item.path] += time_
    items.sort(key=lambda item: -of_file[item.path])
    if config.getoption('quick'):
        config.hook.pytest_deselected(items=[item for item in items if seconds[item] > MOST_QUICK_SECONDS])
        items[:] = [item for item in items if seconds[item] <= MOST_QUICK_SECONDS]


def name_of(nodeid):
    """'test_main.py::test_help' of 'tests/test_main.py::test_help[1]'."""
    return nodeid.partition('[')[0].rpartition('/')[2]


def fixtures_of(item):
    """What `name_of` would call the fixtures of a test that are its module's."""
    return [f'{item.path.name}::{name}' for name in item.fixturenames]


_shared = {}  # seconds of a fixture that many tests use, until the report of the test that made it
_took = collections.Counter()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    started = time.perf_counter()
    try:
        return (yield)
    finally:
        if fixturedef.scope == 'module':
            _shared[name_of(f'{request.node.nodeid}::{fixturedef.argname}')] = time.perf_counter() - started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    # Under xdist the report goes to another process.
    report.user_properties = [*report.user_properties, *_shared.items()]
    _shared.clear()
    return report


def pytest_runtest_logreport(report):
    shared = dict(report.user_properties)
    _took.update(shared)
    _took[report.nodeid] += report.duration - sum(shared.values())


def pytest_sessionfinish(session):
    """Under xdist the process that hears of all tests writes, no worker."""
    if session.config.getoption('record_seconds') and not hasattr(session.config, 'workerinput'):
        longest = collections.defaultdict(float)
        for nodeid, seconds in _took.items():
            longest[name_of(nodeid)] = max(longest[name_of(nodeid)], round(seconds, 1))
        slow = {name: seconds for name, seconds in sorted(longest.items()) if seconds >= LEAST_RECORDED}
        SECONDS.write_text(json.dumps(slow, indent=1) + '\n')


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


@pytest.fixture
def optimized():
    """For the few programs that run hundreds of times: compile as users do."""
    before = jax.config.read('jax_disable_most_optimizations')
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture(scope='session', autouse=True)
def _own_user_cache(tmp_path_factory):
    """What programs remember in the user's cache: not the developer's, and not from one run to the next."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
