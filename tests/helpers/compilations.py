"""What XLA compiles, or takes from its cache on disk, while a block runs."""

import contextlib

import jax


@contextlib.contextmanager
def compilations():
    """A list that grows by one with each program."""
    found = []

    def listen(event, duration, **_):
        if 'backend_compile' in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
