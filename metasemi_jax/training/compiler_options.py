"""XLA options for the training step, where they differ from the defaults."""

import functools
import os
import platform

import jax

# By default XLA hands convolutions to YNNPACK too, whose kernel gradients took 141 ms against 79 of Eigen's
# (128 -> 128 channels of 32×32, batch 32, 2 cores) and lost a digit more; its matrix products and sums are
# the faster ones. See docs/performance.md.
_X86 = {
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
}
# XLA's default and CONVOLUTION: fewer and longer sequences of kernels that the GPU starts without the host.
# A step of SVHN's recipe takes an H100 3% less. COLLECTIVES_KERNEL is of XLA's default since jaxlib 0.12.
_COMMANDS = 'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,CONVOLUTION'
_GPU = tuple(
    {'xla_gpu_enable_command_buffer': commands} for commands in (f'{_COMMANDS},COLLECTIVES_KERNEL', _COMMANDS)
)
# Otherwise cuDNN may sum the gradient of a convolution by atomic additions, in another order each time.
_DETERMINISTIC = 'xla_gpu_exclude_nondeterministic_ops'


@functools.cache
def step_compiler_options(device: str | None = None) -> dict[str, str | bool] | None:
    """`compiler_options` for `jax.jit` of the step on `device`; None where defaults or XLA_FLAGS stand.

    The options change the speed of the step and its rounding. `device` is 'cpu', 'gpu' or 'tpu'; None: the
    one of this machine.
    """
    device = device or jax.default_backend()
    candidates = ()
    if device == 'gpu':
        candidates = _GPU
    elif device == 'cpu' and platform.machine() == 'x86_64':
        candidates = (_X86,)
    flags = os.environ.get('XLA_FLAGS', '')
    faster = (o for o in candidates if not any(name in flags for name in o) and _known(o))
    return (deterministic_options(device) or {}) | next(faster, {}) or None


def _known(options: dict[str, str]) -> bool:
    """Whether this release of XLA takes them; where one no longer does, a test fails."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


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
