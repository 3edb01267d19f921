"""What a machine lacks, or its environment asks of JAX, as one line for people."""

import codecs
import os
import re
import resource
import sys
import threading
import traceback

from metasemi_jax.errors import UserError

TRUE = ('1', 't', 'true', 'on', 'y', 'yes')  # what JAX takes for true in an environment variable
MIN_FILES = 64  # a run with checkpoints has up to 30 open, and its workers take some each
ADDRESS_SPACE = 2_600_000_000  # bytes; a small run takes 2.3 GB on 2 cores, most of it never touched
ADDRESS_SPACE_PER_CORE = 150_000_000
# Threads of XLA, Orbax and TensorStore, which end the program if one cannot start.
THREADS, THREADS_PER_CORE = 24, 4
ASCII = {'×': 'x', '±': '+-', '…': '...', '–': '-', '→': '->', 'μ': 'u'}


def check_machine() -> None:
    """Refuse a machine on which JAX would fail later, silently or with pages of output."""
    _check_environment()
    _check_files()
    _check_address_space()
    _check_threads()


def speak_any_encoding() -> None:
    """Let stdout and stderr spell what their encoding lacks, as with LC_ALL=C, instead of failing."""
    codecs.register_error('metasemi_jax', _spelled)
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, 'encoding', None) or 'utf-8').lower()
        if hasattr(stream, 'reconfigure') and not encoding.startswith('utf'):
            stream.reconfigure(errors='metasemi_jax')


def blame(error: BaseException) -> str:
    """One line on the fault of the machine behind `error`, and its remedy; '' for any other error."""
    text = ' '.join(str(error).split())
    if line := missing_device(error):
        return line
    if 'RESOURCE_EXHAUSTED' in text:
        return f'the device has not enough memory ({_short(text)}); use a smaller batch_size or model'
    if isinstance(error, MemoryError) or 'failed to map segment' in text or 'bad_alloc' in text:
        return f'the machine has not enough memory{f" ({_short(text)})" if text else ""}; use a smaller ' + (
            'batch_size or model, or raise the limit (ulimit -v)'
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "the system starts no more threads; raise the limit (ulimit -u, ulimit -v, or the container's)"
    if name := _variable(error, text):
        return f'{name}={os.environ[name]} in the environment: {_short(text)}; unset {name}, or change it'
    return ''


def missing_device(error: BaseException) -> str:
    """The line of `blame`, if `error`, or what it comes from, is that JAX has no device; else ''."""
    while error.__cause__:
        error = error.__cause__
    text = ' '.join(str(error).split())
    if 'Unable to initialize backend' not in text and not _in_backends(error):
        return ''
    platforms = os.environ.get('JAX_PLATFORMS')
    asked = f'JAX_PLATFORMS={platforms} asks for' if platforms else 'JAX found'
    reason = text.partition("': ")[2].partition(' (set JAX_PLATFORMS')[0]
    reason = f' ({_short(reason)})' if reason else ''
    return f'{asked} a device that is not here{reason}; unset JAX_PLATFORMS, or set it to cpu'


def _check_environment() -> None:
    if os.environ.get('JAX_DISABLE_JIT', '').lower() in TRUE:
        raise UserError(
            f'JAX_DISABLE_JIT={os.environ["JAX_DISABLE_JIT"]} in the environment: the step exists compiled '
            'only; unset JAX_DISABLE_JIT'
        )


def _check_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_FILES and soft != resource.RLIM_INFINITY:
        if hard != resource.RLIM_INFINITY and hard < MIN_FILES:
            raise UserError(f'only {hard} files may be open at a time; allow {MIN_FILES} or more (ulimit -n)')
        resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_FILES, hard))


def _check_address_space() -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    needed = ADDRESS_SPACE + ADDRESS_SPACE_PER_CORE * _cores()
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise UserError(
            f'ulimit -v allows {limit / 1e9:.1f} GB of addresses, and JAX takes {needed / 1e9:.1f} GB before '
            'the first image, most of it never filled; raise the limit, or limit the memory in use instead '
            '(systemd-run -p MemoryMax=, docker run --memory)'
        )


def _check_threads() -> None:
    """Start as many threads as JAX will, for a moment: C++ ends the program where one cannot be started."""
    done, count = threading.Event(), THREADS + THREADS_PER_CORE * _cores()
    threads = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        raise UserError(
            f'the system starts only {len(threads)} more threads, and JAX needs about {count}; raise the '
            'limit (ulimit -u, ulimit -v, or that of the container)'
        ) from error
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _cores() -> int:
    return os.cpu_count() or 1


def _in_backends(error: BaseException) -> bool:
    """Whether JAX itself failed while it looked for devices, as it does for CUDA without its plugin."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, AssertionError) and bool(files) and files[-1].endswith('xla_bridge.py')


def _variable(error: BaseException, text: str) -> str:
    """The variable of the environment that JAX names in `text`, as JAX_NAME or jax_name, or ''."""
    names = {name.upper() for name in re.findall(r'\b(?:JAX|jax)_[A-Za-z0-9_]+', text)}
    if isinstance(error, FloatingPointError):
        names |= {'JAX_DEBUG_NANS', 'JAX_DEBUG_INFS'}
    if 'Disallowed' in text and 'transfer' in text:
        names |= {name for name in os.environ if name.startswith('JAX_TRANSFER_GUARD')}
    return next((name for name in sorted(names) if name in os.environ), '')


def _short(text: str) -> str:
    return text if len(text) <= 200 else f'{text[:200]}...'


def _spelled(error: UnicodeError) -> tuple[str, int]:
    characters = error.object[error.start : error.end]
    spelled = (ASCII.get(c) or c.encode('ascii', 'backslashreplace').decode() for c in characters)
    return ''.join(spelled), error.end
