"""XLA options for the training step, where they differ from the defaults."""

import functools
import os
import platform

import jax

# By default XLA hands convolutions to YNNPACK too, whose kernel gradients took 141 ms against 79 of Eigen's
# (128 -> 128 channels of 32×32, batch 32, 2 cores) and lost a digit more; its matrix products and sums are
# the faster ones. See docs/performance.md.
_OPTION = 'xla_cpu_experimental_ynn_fusion_type'
_X86 = {_OPTION: 'LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'}
# Otherwise cuDNN may sum the gradient of a convolution by atomic additions, in another order each time.
_DETERMINISTIC = 'xla_gpu_exclude_nondeterministic_ops'


@functools.cache
def step_compiler_options(device: str | None = None) -> dict[str, str | bool] | None:
    """`compiler_options` for `jax.jit` of the step on `device`; None where defaults or XLA_FLAGS stand.

    The options change the speed of the step and its rounding. `device` is 'cpu', 'gpu' or 'tpu'; None: the
    one of this machine.
    """
    device = device or jax.default_backend()
    if device != 'cpu' or platform.machine() != 'x86_64':
        return deterministic_options(device)
    if _OPTION in os.environ.get('XLA_FLAGS', ''):
        return None
    try:
        jax.jit(lambda: 0, compiler_options=_X86).lower().compile()
    except jax.errors.JaxRuntimeError:
        # Another release of XLA, in which this experimental option is gone; a test tells us.
        return None
    return _X86


def deterministic_options(device: str | None = None) -> dict[str, bool] | None:
    """`compiler_options` for a program that gives the same bits each time; None where it does anyway.

    XLA still chooses kernels by their speed, so two compilations may round differently. The compilation cache
    keeps one choice for a machine; `XLA_FLAGS=--xla_gpu_deterministic_ops=true` makes it without measuring.
    """
    if (device or jax.default_backend()) != 'gpu' or 'xla_gpu_deterministic_ops' in os.environ.get(
        'XLA_FLAGS', ''
    ):
        return None
    return {_DETERMINISTIC: True}
