"""Devices that are not here, for the compiler alone."""

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from metasemi_jax.errors import UserError
from metasemi_jax.plan.machines import Topology

NEEDS = {'tpu': ('libtpu', 'plan-tpu'), 'gpu': ('jax_plugins.xla_cuda12', 'plan-gpu')}
# Autotuning times kernels on the device, which is not here.
COMPILER_OPTIONS = {
    'tpu': {},
    'gpu': {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False},
}


def prepare_environment() -> None:
    """Call this before JAX is imported: JAX uses only this machine's CPU, libtpu searches for no TPU host."""
    os.environ['JAX_PLATFORMS'] = 'cpu'
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    # This machine's own TPU may be in use by a run.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    # Without these, libtpu searches for its host, and complains.
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')


def check_compiler(topology: Topology) -> None:
    """Refuse a machine whose compiler is not installed."""
    module, extra = NEEDS[topology.chip.platform]
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(
            f'--topology={topology.name} needs the compiler of {topology.chip.title}: pip install '
            f"'.[{extra}]' (no such device is needed)"
        )


def absent_devices(topology: Topology) -> list[Any]:
    """Devices of `topology` for a mesh; programs compile for them and cannot run.

    Raises:
      UserError: a size that the compiler does not know.
    """
    import jax
    from jax.experimental import topologies

    kind = topology.name.partition(':')[0]
    try:
        if topology.chip.platform == 'gpu':
            from metasemi_jax.plan.gpu_targets import target_config

            shape, text = f'1x1x{topology.size}', target_config(kind)
            with silent():
                devices = topologies.get_topology_desc(
                    topology.name, 'cuda', topology=shape, target_config=text
                ).devices
        else:
            # A TPU host has four chips by default, and a v4 chip is two devices.
            options = {'chips_per_host_bounds': (1, 1, 1)} if topology.size == 1 else {}
            options |= {'chip_config_name': 'megacore'} if kind == 'v4' else {}
            devices = topologies.get_topology_desc(topology.name, 'tpu', **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'--topology={topology.name}: the compiler refuses it ({reason})') from error
    if len(devices) != topology.size:
        raise UserError(
            f'--topology={topology.name} has {len(devices)} devices for the compiler, not {topology.size}; '
            'name another size'
        )
    return list(devices)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Discard stderr, C++'s too: the CUDA plugin reports several times that this machine has no GPU."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
