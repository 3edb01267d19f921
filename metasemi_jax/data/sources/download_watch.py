"""TFDS's downloads, with progress lines and time limits of ours: TFDS shows bars and waits without limit."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from metasemi_jax.progress import ProgressLine

READ_SECONDS = 60
WATCH_SECONDS = 10


@contextlib.contextmanager
def network_patience(seconds: float = READ_SECONDS) -> Iterator[None]:
    """Give up on a host that is silent for `seconds`, where TFDS sets no time limit at all."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send

    def send_with_limit(adapter, request, **kwargs):
        return send(adapter, request, **kwargs | {'timeout': kwargs.get('timeout') or seconds})

    with mock.patch.object(HTTPAdapter, 'send', send_with_limit):
        yield


@contextlib.contextmanager
def watch_downloads(dataset: str, folder: Path, *, seconds: float = WATCH_SECONDS) -> Iterator[None]:
    """Show how many bytes have arrived below `folder`, and remove what a broken download leaves there.

    TFDS downloads into `folder`/*.tmp.*/ and moves the file when it is whole.
    """
    before = set(folder.glob('*.tmp.*'))
    line, stop = ProgressLine(), threading.Event()

    def incoming() -> list[Path]:
        return [path for path in folder.glob('*.tmp.*') if path not in before]

    def watch() -> None:
        while not stop.wait(seconds):
            with contextlib.suppress(OSError):
                files = [path for path in incoming() for path in path.iterdir()]
                if files:
                    arrived = sum(path.stat().st_size for path in files)
                    names = ', '.join(path.name for path in files)
                    line.show(f'{dataset}: downloading {names}, {arrived / 1e6:,.0f} MB so far')

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        line.close()
        for path in incoming():
            shutil.rmtree(path, ignore_errors=True)
