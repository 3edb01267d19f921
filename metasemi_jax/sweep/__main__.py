"""Seeds × settings of an experiment, each a run of its own below one folder.

    python -m metasemi_jax.sweep --config=configs/digits.py --grid=ablation --workdir=runs/ablation
    python -m metasemi_jax.sweep --grid='optimizer.lr=0.03,0.1;method.estimator=jvp,exact' --workdir=runs/lr
    python -m metasemi_jax.sweep --config=configs/cifar10.py --grid=method.name=fixmatch,flexmatch,metasemi \\
        --workdir=runs/methods

Where the grid names methods, each comes with its own recipe, as the config file has it; `--grid=methods`
names all.

`--config.FIELD=VALUE` changes a field of every run. Each run is a process of its own, as `python main.py`
would be; what it prints goes to `log.txt` in its folder. One that fails does not stop the rest: the failures
are listed at the end, and the exit code is 1.

The same command goes on where it was: finished runs are left alone, interrupted ones continue. Ctrl-C and
SIGTERM stop the runs, which save; if the sweep is killed, they save and stop too.

`python -m metasemi_jax.report WORKDIR` makes the table and the picture.
"""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from metasemi_jax.cli import config_first, parse_config_flags, run_command
from metasemi_jax.command.flags import define_config, define_workdir, required_workdir
from metasemi_jax.config.checks import check_config
from metasemi_jax.config.form import with_fields
from metasemi_jax.errors import UserError
from metasemi_jax.progress import duration
from metasemi_jax.sweep.folder import check_record, run_name, sweep_lock, write_record
from metasemi_jax.sweep.grid import GRIDS, parse_grid, parse_seeds, settings
from metasemi_jax.training.preemption import StopRequest, stop_on_signals
from metasemi_jax.workdir import Workdir
from metasemi_jax.workdir.outputs import LOG

DEFAULT_CONFIG = Path('configs/digits.py')
RUN = 'metasemi_jax.sweep.run'  # the module of a run's process
POLL_S = 0.1


class PlannedRun(NamedTuple):
    """One run of the sweep, begun or not."""

    label: str  # for people: its place in the sweep and its name
    config: Any  # a ConfigDict
    files: Workdir


def plan(
    config: Any,
    grid: dict[str, list[Any]],
    seeds: list[int],
    folder: Path,
    recipe: Callable[[str], Any] | None = None,
) -> list[PlannedRun]:
    """Every run of the sweep, one seed after the other, so that the settings can be compared early.

    Args:
      config: settings that all runs share.
      grid: the fields that differ between them, with their values.
      recipe: method name -> the config instead of `config` for runs of a grid over methods.

    Raises:
      UserError: settings that no run can have, or a folder that holds something else. Nothing was written.
    """
    pairs = [(seed, setting) for seed in seeds for setting in settings(grid)]
    runs = []
    recipes = {name: recipe(name) for name in grid.get('method.name', ()) if recipe}
    for number, (seed, setting) in enumerate(pairs, 1):
        base = recipes.get(setting.get('method.name'), config)
        name = run_name(setting, seed)
        run = PlannedRun(
            f'[{number}/{len(pairs)}] {name}',
            with_fields(base, setting | {'seed': seed}),
            Workdir(folder / name),
        )
        check_config(run.config)
        run.files.check(run.files.with_choices_of_run(run.config))
        runs.append(run)
    check_record(folder, list(grid), config)
    return runs


class _Process:
    """A run in progress."""

    def __init__(self, run: PlannedRun):
        self.run = run
        self._started = time.perf_counter()
        run.files.path.mkdir(parents=True, exist_ok=True)
        self._log = run.files.path / LOG
        with self._log.open('ab') as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, '-u', '-m', RUN, str(run.files.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the sweep alone: a run that gets two signals ends without saving.
                process_group=0,
            )
        # It may be dead already; its exit code tells.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(run.config.to_dict()).encode() + b'\n')
            self._process.stdin.flush()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def stop(self) -> None:
        """Ask it to save and to end, the way it would notice the death of the sweep."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def failure(self) -> str:
        """The reason why the run ended without results."""
        code = self._process.returncode
        if code < 0:
            memory = ' (out of memory?)' if code == -signal.SIGKILL else ''
            return f'killed by {signal.Signals(-code).name}{memory}'
        with self._log.open('rb') as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors='replace').split('\n')
        said = [line for line in lines if line.strip()]
        return said[-1].strip().removeprefix('error: ') if said else f'it ended with the exit code {code}'


def run_all(runs: list[PlannedRun], jobs: int, stop: StopRequest) -> dict[str, str]:
    """Train what is not finished, `jobs` at once, until `stop`; prints a line for each start and end.

    Returns:
      Why a run failed, by its label.
    """
    waiting, failed = deque(run for run in runs if run.files.read_results() is None), {}
    if len(waiting) < len(runs):
        print(f'{len(runs) - len(waiting)} of {len(runs)} runs are finished already', flush=True)
    at_work: list[_Process] = []
    try:
        while at_work or (waiting and not stop):
            while waiting and len(at_work) < jobs and not stop:
                run = waiting.popleft()
                print(f'{run.label}: {"continues" if run.files.config.exists() else "starts"}', flush=True)
                at_work.append(_Process(run))
            time.sleep(POLL_S)
            if stop:
                for process in at_work:
                    process.stop()
            for process in [process for process in at_work if process.ended]:
                at_work.remove(process)
                process.stop()  # close the pipe
                if failure := _report_end(process, stopped=bool(stop)):
                    failed[process.run.label] = failure
    finally:
        # After an error those that are still at work.
        for process in at_work:
            process.stop()
    return failed


def _report_end(process: _Process, *, stopped: bool) -> str | None:
    """Print how a run ended; returns why it failed, if it did."""
    label = process.run.label
    try:
        results, damage = process.run.files.read_results(), None
    except UserError as error:
        results, damage = None, str(error)
    if results is not None:
        split = 'test' if 'test_error_last' in results else 'validation'
        error = results[f'{split}_error_last']
        print(f'{label}: {split} error {error:.2f}%, {duration(process.seconds)}', flush=True)
        return None
    if stopped:
        print(f'{label}: stopped', flush=True)
        return None
    failure = damage or process.failure()
    print(f'{label}: failed: {failure}', flush=True)
    return failure


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    values = _flags()
    run_command(
        lambda: _sweep(values, lambda method: _recipe(argv, method)),
        argv,
        default_config=DEFAULT_CONFIG,
        values=values,
    )


def _recipe(argv: list[str], method: str) -> Any:
    """The config of the command line with the recipe of another method."""
    values = _flags()
    parse_config_flags(values, config_first([*argv, f'--config.method.name={method}'], DEFAULT_CONFIG))
    return values['config'].value


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    define_config(values, 'changes a field of every run')
    flags.DEFINE_string(
        'grid',
        '',
        "The settings: 'FIELD=VALUE,VALUE;FIELD=VALUE,...', every combination, or the name of a grid "
        f'({"; ".join(f"{name}: {text}" for name, text in GRIDS.items())}). Without it the seeds alone.',
        flag_values=values,
    )
    flags.DEFINE_list(
        'seeds', ['0', '1', '2', '3', '4'], 'Seeds of the runs of each setting.', flag_values=values
    )
    define_workdir(values, 'Folder of the runs, made if missing.')
    flags.DEFINE_integer(
        'jobs',
        1,
        'Runs at once. They share the cores and the accelerators, and it is for you to see that they fit: on '
        'one GPU JAX gives three quarters of the memory to the first, unless the environment has '
        'XLA_PYTHON_CLIENT_PREALLOCATE=false, and several may be no faster than one after the other.',
        lower_bound=1,
        flag_values=values,
    )
    return values


def _sweep(values: flags.FlagValues, recipe: Callable[[str], Any]) -> None:
    workdir = required_workdir(values['workdir'].value, 'the folder of the runs')
    config, folder = values['config'].value, Path(workdir).absolute()
    grid = parse_grid(values['grid'].value)
    check_config(config)
    runs = plan(config, grid, parse_seeds(values['seeds'].value), folder, recipe)
    with sweep_lock(folder), stop_on_signals() as stop:
        write_record(folder, list(grid), config)
        stop.listen()
        failed = run_all(runs, values['jobs'].value, stop)
    finished = sum(run.files.results.exists() for run in runs)
    print(f'{finished} of {len(runs)} runs are finished')
    if finished:
        print(f'the table: {shlex.join(["python", "-m", "metasemi_jax.report", workdir])}')
    for label, reason in failed.items():
        print(f'{label} failed: {reason}', file=sys.stderr)
    if stop and finished < len(runs):
        print(f'{stop.name}: the runs at work have saved and stopped; the same command goes on', flush=True)
        raise SystemExit(stop.exit_code)
    if failed:
        raise UserError(
            f'{len(failed)} of {len(runs)} runs failed; see {LOG} in their folders; the same command tries '
            'them again'
        )


if __name__ == '__main__':
    main(sys.argv)
