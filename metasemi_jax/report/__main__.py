"""One table, and a picture, of any number of runs: mean ± standard deviation over the seeds.

    python -m metasemi_jax.report runs/ablation
    python -m metasemi_jax.report runs/digits_0 runs/digits_1 runs/digits_2 --output=runs/digits

Each argument is the folder of a run, or of a sweep (`python -m metasemi_jax.sweep`), which stands for all its
runs. Runs that differ in the seed alone make one row. Where they differ in another field they are refused,
and the field is named, except for what the sweep varies or `--by` names: there each value makes a row.

Runs that are not finished are listed and left out. A published error stands beside a row of the same method,
network and number of labels, with its program and network named.
"""

import sys
from pathlib import Path

from absl import flags

from metasemi_jax.cli import run_command
from metasemi_jax.command.flags import check_output_folder, define_output, write_output_folder
from metasemi_jax.config.fields import FIELDS
from metasemi_jax.errors import UserError
from metasemi_jax.report.figure import FORMATS
from metasemi_jax.report.runs import find_runs, make_rows, read_runs
from metasemi_jax.report.table import FIRST_CELLS, comma_separated, markdown, notes

SUFFIXES = ('md', 'csv', *FORMATS)


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    values = flags.FlagValues()
    define_output(
        values,
        'Folder for report.md, .csv, .png and .pdf, made if missing; by default the folder that is named if '
        'it is one, else runs/report.',
    )
    flags.DEFINE_list(
        'by',
        None,
        'Fields whose values make the rows of the table, as method.meta,method.mixup; by default those that '
        'the sweep varies.',
        flag_values=values,
    )
    run_command(lambda *folders: _report(values, folders), argv, values=values, many=True)


def _report(values: flags.FlagValues, folders: tuple[str, ...]) -> None:
    if not folders:
        raise UserError('name the folders of runs, or of a sweep: metasemi report runs/ablation')
    paths, swept = find_runs([Path(folder) for folder in folders])
    by = swept if values['by'].value is None else [name.strip() for name in values['by'].value]
    for name in by:
        if name not in FIELDS or name == 'seed':
            raise UserError(f'--by={name}: there is no such setting; configs/default.py lists them all')
    runs, unfinished = read_runs(paths)
    if not runs:
        raise UserError(f'no run is finished: {", ".join(unfinished) or "there is none"}')
    rows = make_rows(runs, by)
    output = Path(values['output'].value or (folders[0] if len(folders) == 1 else 'runs/report'))
    _check_output(output)
    sentences = notes(rows)
    sentences += [
        f'{run.folder} warned at step {warned["step"]}: {warned["message"]}.'
        for run in runs
        for warned in run.results.get('warnings', [])
    ]
    if unfinished:
        sentences.append(f'Not finished and left out: {", ".join(unfinished)}.')
    report = '\n'.join([markdown(rows), '', *sentences])
    print(report)
    # Matplotlib takes a second to load.
    from metasemi_jax.report.figure import draw

    texts = {'report.md': f'{report}\n', 'report.csv': comma_separated(rows)}
    contents = {name: text.encode() for name, text in texts.items()}
    contents |= {f'report.{suffix}': content for suffix, content in draw(rows).items()}
    write_output_folder(output, contents)
    print(f'written to {output}: {", ".join(contents)}')


def _check_output(folder: Path) -> None:
    files = [folder / f'report.{suffix}' for suffix in SUFFIXES]
    check_output_folder(folder, files, lambda content: content.startswith(FIRST_CELLS))


if __name__ == '__main__':
    main(sys.argv)
