"""What TFDS 4.9.10 makes necessary (beside `tfds_prepare`); a later version may need none of it."""

import contextlib
import errno
import io
import logging
import os
from collections.abc import Iterator
from unittest import mock

from metasemi_jax.progress import logging_level

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_SECONDS = 60


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keep TFDS's progress bars, prints and logs off the terminal: no option turns all of them off."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import tqdm_utils

    bars = tqdm_utils._active
    tfds.disable_progress_bar()
    try:
        with logging_level('absl', logging.ERROR), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(bars)


@contextlib.contextmanager
def network_patience(seconds: float = READ_SECONDS) -> Iterator[None]:
    """Give up on a host that is silent for `seconds`: TFDS's downloader sets no time limit."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    def send_with_limit(adapter, request, **kwargs):
        return send(adapter, request, **kwargs | {'timeout': kwargs.get('timeout') or seconds})

    with mock.patch.object(HTTPAdapter, 'send', send_with_limit):
        yield


def written_error(error: RuntimeError) -> Exception:
    """The OSError behind a RuntimeError of array_record 0.8.6, which names a full disk in its text alone."""
    for code in DISK_FULL:
        if os.strerror(code) in str(error):
            return OSError(code, os.strerror(code))
    return error
