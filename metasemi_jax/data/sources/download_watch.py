"""A progress line for TFDS's downloads."""

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from metasemi_jax.progress import ProgressLine

WATCH_SECONDS = 10


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
