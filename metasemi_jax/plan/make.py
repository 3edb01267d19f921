"""From a config and a machine to a plan."""

from collections.abc import Callable
from typing import Any

import jax

from metasemi_jax.config.checks import check_config
from metasemi_jax.config.form import with_fields
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.plan.devices import absent_devices
from metasemi_jax.plan.estimate import estimate, needed_bytes
from metasemi_jax.plan.machines import Topology
from metasemi_jax.plan.report import Plan
from metasemi_jax.plan.search import largest_batch
from metasemi_jax.plan.stand_in import data_of
from metasemi_jax.plan.step_program import StepProgram, compile_step, lower_step
from metasemi_jax.training.choices import with_image_size
from metasemi_jax.training.published_weights import with_normalisation, with_published_network


def make_plan(config: Any, topology: Topology, *, say: Callable[[str], None]) -> Plan:
    """Compile the step of `config` for `topology`; where it does not fit, with smaller batches too.

    Args:
      config: settings as the user gave them.
      topology: a machine whose compiler is installed.

    Raises:
      UserError: settings that do not fit each other, the data or the machine.
    """
    check_config(config)
    config, published = with_published_network(config)
    config, _ = with_image_size(config, published=published is not None, platform=topology.chip.platform)
    # What is compiled for devices that are not here cannot be read back from the cache.
    jax.config.update('jax_enable_compilation_cache', False)
    mesh = make_mesh(absent_devices(topology))
    dataset, split = data_of(config)
    if published is not None and not dataset.has_features:
        config = with_normalisation(config, published, dataset.image_shape[-1])

    def attempt(config: Any) -> Plan:
        program = lower_step(config, dataset, split, mesh)
        say(f'compiling {program.config.batch_size} images a step for {topology.name} ...')
        return _attempt(program, topology)

    plan = attempt(config)
    if plan.fits:
        return plan
    wanted, config = plan.estimate.memory.total if plan.estimate else plan.wanted, plan.program.config
    room = largest_batch(
        lambda size: attempt(with_fields(config, {'batch_size': size})).fits,
        config.batch_size,
        topology.size,
        share=topology.chip.memory / wanted if wanted else None,
    )
    return plan._replace(room=room)


def _attempt(program: StepProgram, topology: Topology) -> Plan:
    try:
        compiled, seconds = compile_step(program, topology.chip.platform)
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        return Plan(topology, program, 0.0, None, needed_bytes(str(error)))
    found = estimate(
        compiled, topology, state=program.state_bytes, evaluation=program.eval_bytes, dtype=program.dtype
    )
    return Plan(topology, program, seconds, found, None)
