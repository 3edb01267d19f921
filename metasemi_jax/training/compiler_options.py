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
# On an H100 a step of SVHN's recipe, and of FixMatch's, takes 3% less.
_GPU = {
    'xla_gpu_enable_command_buffer': (
        'FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION,DYNAMIC_SLICE_FUSION'
    )
}
# Otherwise cuDNN may sum the gradient of a convolution by atomic additions, in another order each time.
_DETERMINISTIC = 'xla_gpu_exclude_nondeterministic_ops'


@functools.cache
def step_compiler_options(device: str | None = None) -> dict[str, str | bool] | None:
    """`compiler_options` for `jax.jit` of the step on `device`; None where defaults or XLA_FLAGS stand.

    The options change the speed of the step and its rounding. `device` is 'cpu', 'gpu' or 'tpu'; None: the
    one of this machine.
    """
    device = device or jax.default_backend()
    faster = {}
    if device == 'gpu':
        faster = _GPU
    elif device == 'cpu' and platform.machine() == 'x86_64':
        faster = _X86
    flags = os.environ.get('XLA_FLAGS', '')
    if any(option in flags for option in faster) or not _known(faster):
        faster = {}
    return (deterministic_options(device) or {}) | faster or None


def _known(options: dict[str, str]) -> bool:
    """Whether XLA takes them; experimental ones go with a release, and a test tells us."""
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
