"""Damages every file of a finished run in every way, and starts every command on it.

    PYTHONPATH=. python tests/helpers/fuzz_workdir.py             # everything
    PYTHONPATH=. python tests/helpers/fuzz_workdir.py input.json  # the cases of one file

A command must end with one line and the exit code 1, or do its work; and what it does not write stays as it
was. tests/test_damaged_runs.py takes a few of these cases.
"""

import contextlib
import functools
import io
import json
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from metasemi_jax import export
from metasemi_jax.cli import run_command
from metasemi_jax.distributed.sharding import make_mesh
from metasemi_jax.errors import UserError
from metasemi_jax.predict import __main__ as predict
from metasemi_jax.report import __main__ as report
from metasemi_jax.sweep.__main__ import plan, run_all
from metasemi_jax.sweep.folder import check_record, write_record
from metasemi_jax.training.experiment import build_experiment
from metasemi_jax.training.loop import train_and_evaluate
from metasemi_jax.training.preemption import StopRequest
from metasemi_jax.training.resume import open_and_restore
from metasemi_jax.visualize import __main__ as visualize
from own_images import write_image
from small_runs import contents, tiny_config

CONFIG = tiny_config(model__name='conv_small', total_steps=4, data__num_validation=20, ema_decay=0.9)
OTHERS = (None, True, -1, 10**40, 'x\ny', [], {'x': 1})
KEPT = ('.lock', '.predictions.json')


def make_sweep(folder: Path) -> Path:
    """A sweep of one finished run, beside an image; returns the run's folder."""
    write_record(folder, [], CONFIG)
    (run,) = plan(CONFIG, {}, [0], folder)
    train_and_evaluate(CONFIG, str(run.files.path))
    write_image(folder / 'image' / 'a.png', channels=1)
    return run.files.path


def damages(path: Path, content: bytes) -> Iterator[tuple[str, bytes | None]]:
    """(what, the new content or None for none) of one file."""
    yield 'missing', None
    yield 'empty', b''
    yield 'cut in half', content[: len(content) // 2]
    yield 'without its end', content[:-1]
    yield 'not UTF-8', b'\xff\xfe' + content
    middle = len(content) // 2
    yield (
        'a flipped bit',
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else b'x',
    )
    if path.suffix == '.json':
        yield 'too deep', b'[' * 100_000
        for value in (*OTHERS, 3):
            yield f'{value!r} alone', json.dumps(value).encode()
        value = json.loads(content)
        for where in places(value):
            for other in OTHERS:
                yield f'{where} = {other!r}', json.dumps(replaced(value, where, other)).encode()
            if isinstance(value, dict):
                yield f'without {where}', json.dumps(replaced(value, where, None, delete=True)).encode()
    if path.suffix in ('.txt', '.jsonl'):
        lines = content.splitlines(keepends=True)
        yield 'a line twice', content + b''.join(lines[:1])
        yield 'a line less', b''.join(lines[1:])
        yield 'a strange line', content + b'strange\n'
    if path.suffix == '.jsonl':
        entry = json.loads(content.splitlines()[0])
        for where in places(entry):
            for other in OTHERS:
                yield f'{where} = {other!r}', json.dumps(replaced(entry, where, other)).encode() + b'\n'


def places(value, above=()) -> Iterator[tuple]:
    """The paths to every field and entry."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in list(items)[:12] if isinstance(value, list) else items:
        yield (*above, key)
        yield from places(below, (*above, key))


def replaced(value, where, other, *, delete=False):
    """A copy of `value` with `other` at `where`, or with nothing there."""
    copy = json.loads(json.dumps(value))
    at = copy
    for key in where[:-1]:
        at = at[key]
    if delete:
        del at[where[-1]]
    else:
        at[where[-1]] = other
    return copy


def sweep_again(folder: Path) -> None:
    """The sweep's command, without starting a process: a run that is not finished is only planned."""
    check_record(folder, [], CONFIG)
    runs = plan(CONFIG, {}, [0], folder)
    with mock.patch('metasemi_jax.sweep.__main__._Process', side_effect=lambda run: sys.exit(0)):
        run_all(runs, 1, StopRequest())


def rewriting(*_):
    """In the place of building the experiment of a run that lacks a file: it takes seconds."""
    raise UserError('the run would be gone through once more')


@functools.cache
def experiment():
    """What `resume` needs of a run."""
    return build_experiment(CONFIG, make_mesh())


def resume(run: Path) -> None:
    """What a run reads of its checkpoints when it goes on."""
    manager, *_ = open_and_restore(run / 'checkpoints', experiment(), make_mesh())
    manager.close()


def no_tsne(features, seed):
    """In the place of t-SNE, which takes seconds."""
    return np.zeros((len(features), 2), np.float32)


def commands(folder: Path, run: Path) -> dict:
    """Every command, by its name."""
    at, out = f'--workdir={run}', folder / 'out'

    def classify(*arguments: str) -> None:
        predict.main(['predict', at, *arguments])

    return {
        'main': lambda: run_command(lambda: train_and_evaluate(CONFIG, str(run)), ['main']),
        'resume': lambda: run_command(lambda: resume(run), ['main']),
        'predict': lambda: classify(str(folder / 'image'), f'--output={out}/a.csv'),
        'split': lambda: classify('--unlabeled', f'--output={out}/b.csv'),
        'best': lambda: classify('--split=validation', '--weights=best_ema', f'--output={out}/c.csv'),
        'export': lambda: export.main(['export', at, f'--output={out}/model']),
        'report': lambda: report.main(['report', str(folder), f'--output={out}/report']),
        'visualize': lambda: visualize.main(['visualize', str(run), f'--output={out}', '--num_points=10']),
        'sweep': lambda: run_command(lambda: sweep_again(folder), ['sweep']),
    }


def fault(command) -> str:
    """What is wrong with how a command ends; '' where all is well."""
    out, err = io.StringIO(), io.StringIO()
    message = None
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch('metasemi_jax.visualize.look.embed', no_tsne),
            mock.patch('metasemi_jax.training.loop.build_experiment', rewriting),
        ):
            command()
    except SystemExit as exit_:
        message = exit_.code
    except BaseException as error:
        return f'a traceback: {type(error).__name__}: {error}'
    if err.getvalue():
        return f'on stderr: {err.getvalue()[:500]}'
    if message in (None, 0):
        return ''
    if not isinstance(message, str) or not message.startswith('error: ') or '\n' in message:
        return f'no one line: {message!r}'
    return ''


def try_one(
    folder: Path, file: Path, content: bytes | None, names, run: Path, run_folder_copy: Path
) -> Iterator[tuple[str, str]]:
    """Start the commands `names` on the run with `content` in `file`; yields (command, fault)."""
    for name in names:
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        before = contents(folder)
        (folder / 'out').mkdir(exist_ok=True)
        found = fault(commands(folder, run)[name])
        shutil.rmtree(folder / 'out', ignore_errors=True)
        after = {path: value for path, value in contents(folder).items() if path.name not in KEPT}
        before = {path: value for path, value in before.items() if path.name not in KEPT}
        # Damaged checkpoints are set aside.
        if not found and name != 'resume' and after != before:
            changed = [str(path) for path in {*before, *after} if before.get(path) != after.get(path)]
            found = f'it changed {changed}'
        yield name, found
        restore(folder, run_folder_copy)


def restore(folder: Path, copy: Path) -> None:
    """Make `folder` what `copy` is."""
    if contents(folder).keys() != {folder / path.relative_to(copy) for path in contents(copy)} or any(
        (folder / path.relative_to(copy)).read_bytes() != value for path, value in contents(copy).items()
    ):
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)


def commands_for(file: Path) -> list[str]:
    """Those that read the file; for a checkpoint those that look at one in different ways."""
    if file.name == 'sweep.json':
        return ['report', 'sweep']
    if file.name == 'config.json':
        return ['main', 'predict', 'report']
    if 'checkpoints' in file.parts:
        return ['split', 'best', 'resume']
    if file.name.startswith('events') or file.name == '.lock':
        return ['main', 'report']
    if file.name == 'metrics.jsonl':
        return ['visualize', 'main']
    if file.name == 'results.json':
        return ['main', 'report', 'visualize', 'sweep']
    return ['main', 'predict', 'split', 'export', 'report', 'visualize']


def main() -> None:
    """Everything; prints each fault and a count."""
    import tempfile

    warnings.simplefilter('ignore')
    here = Path(tempfile.mkdtemp())
    folder, copy = here / 'sweep', here / 'copy'
    with contextlib.redirect_stdout(io.StringIO()):
        run = make_sweep(folder)
    shutil.copytree(folder, copy)
    total, faults, started = 0, 0, time.time()
    only = sys.argv[1:]
    for file in sorted(contents(folder)):
        if file.name == 'a.png' or (only and not any(part in str(file) for part in only)):
            continue
        begun = time.time(), total
        for what, content in damages(file, file.read_bytes()):
            for name, found in try_one(folder, file, content, commands_for(file), run, copy):
                total += 1
                if found:
                    faults += 1
                    print(f'{file.relative_to(folder)} {what[:80]}: {name}: {found[:400]}', flush=True)
        print(
            f'-- {file.relative_to(folder)}: {total - begun[1]} cases in {time.time() - begun[0]:.0f} s',
            flush=True,
        )
    print(f'{total} cases, {faults} faults, {time.time() - started:.0f} s')
    shutil.rmtree(here)


if __name__ == '__main__':
    main()
