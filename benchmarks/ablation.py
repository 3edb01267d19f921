"""The paper's 2×2 ablation over several seeds, as a Markdown table of test errors.

    python -m benchmarks.ablation --config=configs/digits.py --seeds=0,1,2,3,4 --workdir=runs/ablation

Each run has its own folder below `--workdir`. A finished one is read, not repeated, and an interrupted one
goes on: start the same command again after a stop.
"""

import copy
import statistics
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from metasemi_jax.command import run_command

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The experiment; its method.meta and .mixup are set.'
)
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2', '3', '4'], 'Seeds of the runs.')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/ablation', 'Folder of the runs.')

ROWS = {  # method.meta, method.mixup
    'labeled only': (False, False),
    'meta only': (True, False),
    'mix-up only': (False, True),
    'MetaSemi': (True, True),
}
PROTOCOLS = {
    'last step': 'test_error_last',
    'median of the last 20': 'test_error_median20',
    'best (selected on test)': 'test_error_best',
}


def main() -> None:
    from metasemi_jax.compilation_cache import enable_compilation_cache
    from metasemi_jax.train import train_and_evaluate

    enable_compilation_cache()
    results = {}
    for row, (meta, mixup) in ROWS.items():
        for seed in map(int, _SEEDS.value):
            config = copy.deepcopy(_CONFIG.value)
            config.seed, config.method.meta, config.method.mixup = seed, meta, mixup
            folder = Path(_WORKDIR.value) / f'meta={meta},mixup={mixup},seed={seed}'
            results.setdefault(row, []).append(train_and_evaluate(config, folder))
    print(f'\n{table(results)}')


def table(results: dict[str, list[dict]]) -> str:
    """Mean ± standard deviation over the seeds (n - 1 in the denominator) of each protocol, in percent."""
    lines = [
        f'| test error, % | {" | ".join(PROTOCOLS)} | each seed, last step |',
        f'|---|{"---|" * (len(PROTOCOLS) + 1)}',
    ]
    for row, runs in results.items():
        cells = [_mean_and_deviation([run[name] for run in runs]) for name in PROTOCOLS.values()]
        seeds = ' '.join(f'{run["test_error_last"]:.1f}' for run in runs)
        lines.append(f'| {row} | {" | ".join(cells)} | {seeds} |')
    return '\n'.join(lines)


def _mean_and_deviation(values: list[float]) -> str:
    mean = f'{statistics.mean(values):.2f}'
    return f'{mean} ± {statistics.stdev(values):.2f}' if len(values) > 1 else mean


if __name__ == '__main__':
    run_command(main, sys.argv, default_config=Path(__file__).parent.parent / 'configs' / 'digits.py')
