import jax
import jax.numpy as jnp
import pytest

from metasemi_jax.training import compiler_options
from metasemi_jax.training.compiler_options import deterministic_options, step_compiler_options

here = pytest.mark.skipif(
    jax.default_backend() != 'cpu' or step_compiler_options() is None,
    reason='the options are for CPUs of x86-64',
)


@pytest.fixture
def asked_anew():
    step_compiler_options.cache_clear()
    yield
    step_compiler_options.cache_clear()


@pytest.mark.skipif(compiler_options.platform.machine() != 'x86_64', reason='as above')
@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='as above')
def test_this_release_of_xla_knows_the_option(asked_anew, monkeypatch):
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    assert step_compiler_options() is not None


@here
def test_a_kernel_gradient_leaves_ynnpack():
    x, g = jnp.zeros((8, 16, 16, 32)), jnp.zeros((8, 16, 16, 32))

    def conv(kernel, x):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )

    def kernel_gradient(x, g):
        return jax.vjp(lambda kernel: conv(kernel, x), jnp.zeros((3, 3, 32, 32)))[1](g)[0]

    default, ours = (
        jax.jit(kernel_gradient, compiler_options=options).lower(x, g).compile().as_text()
        for options in (None, step_compiler_options())
    )
    assert 'ynn_fusion' in default
    assert 'ynn_fusion' not in ours


@here
def test_the_users_own_flag_stands(asked_anew, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_experimental_ynn_fusion_type=')
    assert step_compiler_options() is None


@here
def test_a_release_without_the_option_gets_the_defaults(asked_anew, monkeypatch):
    monkeypatch.setattr(compiler_options, '_X86', {'xla_cpu_no_such_option': '1'})
    assert step_compiler_options() is None


def test_gpus_are_asked_for_kernels_that_give_the_same_bits(asked_anew, monkeypatch):
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    assert deterministic_options() is None  # CPUs and TPUs have no others
    # XLA refuses an option that it does not know, on whatever backend.
    jax.jit(lambda: 0, compiler_options={'xla_gpu_exclude_nondeterministic_ops': True}).lower().compile()
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert deterministic_options() == {'xla_gpu_exclude_nondeterministic_ops': True}
    assert step_compiler_options().items() > deterministic_options().items()


def dumped(folder):
    (options,) = folder.glob('*debug_options')
    return options.read_text()


def test_this_release_of_xla_knows_how_gpus_start_convolutions(asked_anew, monkeypatch, tmp_path):
    monkeypatch.delenv('XLA_FLAGS', raising=False)
    option = 'xla_gpu_enable_command_buffer'
    commands = step_compiler_options('gpu')[option].split(',')
    # Beside XLA's own: what differs from the defaults is dumped, in whatever order the option names it.
    default = {option: ','.join(command for command in commands if command != 'CONVOLUTION')}
    for name, options in (('default', default), ('ours', {option: ','.join(commands)})):
        dump = {'xla_dump_to': str(tmp_path / name)}
        jax.jit(lambda: 0, compiler_options=dump | options).lower().compile()
    assert 'command_buffer' not in dumped(tmp_path / 'default')
    assert 'xla_gpu_enable_command_buffer: CONVOLUTION' in dumped(tmp_path / 'ours')
    with pytest.raises(jax.errors.JaxRuntimeError, match='xla_gpu_enable_command_buffer'):
        jax.jit(lambda: 0, compiler_options={'xla_gpu_enable_command_buffer': 'NO_SUCH'}).lower().compile()


def test_the_users_own_command_buffers_stand(asked_anew, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_gpu_enable_command_buffer=')
    assert step_compiler_options('gpu') == deterministic_options('gpu')


def test_the_users_own_deterministic_kernels_stand(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setenv('XLA_FLAGS', '--xla_gpu_deterministic_ops=true')
    assert deterministic_options() is None
