"""Tables of runs whose figures are written by hand."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import cifar10, cifar100, svhn
from metasemi_jax.errors import UserError
from metasemi_jax.report import __main__ as report
from metasemi_jax.report.runs import find_runs, make_rows, read_runs, spread
from metasemi_jax.report.table import comma_separated, markdown, notes
from metasemi_jax.results import PROTOCOLS
from metasemi_jax.sweep.folder import write_record
from small_runs import ROOT, contents, tiny_config


def write_run(folder, config, last, **figures):
    """A finished run whose last test error is `last`, or one that is not finished where that is None."""
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps(config.to_dict()))
    if last is not None:
        errors = {'test_error_last': last, 'test_error_median20': last + 1, 'test_error_best': last - 1}
        (folder / 'results.json').write_text(json.dumps({'steps': 12} | errors | figures))
    return folder


def rows_of(*folders, by=()):
    finished, _ = read_runs(folders)
    return make_rows(finished, by)


def cells(rows):
    """The lines of the table below its head, split."""
    return [line.strip('| ').split(' | ') for line in markdown(rows).splitlines()[2:]]


def changed(config, **fields):
    config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in fields.items()})
    return config


def test_mean_and_deviation_by_hand(tmp_path):
    # 2, 4, 9: mean 5; squares of the differences 9 + 1 + 16 = 26, over n - 1 = 2: 13, whose root is 3.6056.
    assert spread([2.0, 4.0, 9.0]) == pytest.approx((5, 3.605551275))
    assert spread([7.0]) == (7, None)
    runs = [
        write_run(tmp_path / str(seed), tiny_config(seed=seed), e)
        for seed, e in ((8, 9.0), (0, 2.0), (3, 4.0))
    ]
    rows = rows_of(*runs)
    protocols = '| last step | median of the last 20 | best (selected on test) | each seed, last step |'
    assert markdown(rows).splitlines() == [
        f'| test error, % {protocols}',
        '|---|---|---|---|---|',
        '| MetaSemi | 5.00 ± 3.61 | 6.00 ± 3.61 | 4.00 ± 3.61 | 2.0 4.0 9.0 |',
    ]
    assert notes(rows) == ['Mean ± standard deviation (n - 1) over the seeds 0, 3, 8.']
    alone = rows_of(runs[0])
    assert cells(alone) == [['MetaSemi', '9.00', '10.00', '8.00', '9.0']]
    assert notes(alone) == ['One seed alone: 8.']


def test_every_protocol_and_ema_weights(tmp_path):
    figures = {
        'test_error_best_on_validation': 3.0,
        'ema_test_error_last': 1.5,
        'ema_test_error_median20': 2.5,
        'ema_test_error_best': 0.5,
        'ema_test_error_best_on_validation': 1.0,
        'validation_error_last': 70.0,
    }
    rows = rows_of(write_run(tmp_path / 'run', tiny_config(ema_decay=0.9), 4.0, **figures))
    assert {*rows[0].errors} == {*figures, *(name for name in PROTOCOLS if name.startswith('test'))}
    assert cells(rows) == [
        ['MetaSemi', '4.00', '5.00', '3.00', '3.00', '4.0'],
        ['MetaSemi, EMA weights', '1.50', '2.50', '1.00', '0.50', '1.5'],
    ]
    assert 'best on validation | best (selected on test)' in markdown(rows)
    read = list(csv.DictReader(io.StringIO(comma_separated(rows))))
    assert [(line['weights'], line['n'], line['seeds']) for line in read] == [
        ('raw', '1', '0'),
        ('EMA', '1', '0'),
    ]
    assert [line['test_error_best_on_validation_mean'] for line in read] == ['3.0', '1.0']
    assert [line['test_error_last_std'] for line in read] == ['', '']


def test_without_a_test_set(tmp_path):
    run = write_run(tmp_path / 'run', tiny_config(), None)
    figures = {'validation_error_last': 5.0, 'validation_error_median20': 6.0, 'validation_error_best': 4.0}
    (run / 'results.json').write_text(json.dumps({'steps': 12} | figures))
    rows = rows_of(run)
    assert markdown(rows).startswith(
        '| validation error, % | last step | median of the last 20 | best (selected on v'
    )
    assert cells(rows) == [['MetaSemi', '5.00', '6.00', '4.00', '5.0']]


def ablation(folder, seeds=(0, 1), **fields):
    """The paper's 2×2, its rows in an order of their own."""
    errors = {(False, False): 9.0, (True, False): 7.0, (False, True): 6.0, (True, True): 4.0}
    return [
        write_run(
            folder / f'{meta}{mixup}{seed}',
            tiny_config(method__meta=meta, method__mixup=mixup, seed=seed, **fields),
            error + seed,
        )
        for (meta, mixup), error in errors.items()
        for seed in seeds
    ]


BY = ['method.meta', 'method.mixup']


def test_the_ablation_has_the_papers_names_and_order(tmp_path):
    rows = rows_of(*reversed(ablation(tmp_path)), by=BY)
    assert [line[0] for line in cells(rows)] == ['labeled only', 'meta only', 'mix-up only', 'MetaSemi']
    assert [line[1] for line in cells(rows)] == ['9.50 ± 0.71', '7.50 ± 0.71', '6.50 ± 0.71', '4.50 ± 0.71']
    read = list(csv.DictReader(io.StringIO(comma_separated(rows))))
    assert [(line['method.meta'], line['method.mixup']) for line in read] == [
        ('False', 'False'),
        ('True', 'False'),
        ('False', 'True'),
        ('True', 'True'),
    ]
    assert [float(line['test_error_last_mean']) for line in read] == [9.5, 7.5, 6.5, 4.5]


def test_rows_are_named_by_what_differs(tmp_path):
    settings = (
        {'optimizer__lr': 0.1},
        {'optimizer__lr': 0.02},
        {'optimizer__lr': 0.1, 'method__meta': False, 'model__width': None},
    )
    runs = [
        write_run(tmp_path / str(number), tiny_config(**fields), 4.0)
        for number, fields in enumerate(settings)
    ]
    by = ['method.meta', 'optimizer.lr', 'model.width']
    assert [row.name for row in rows_of(*runs[:2], by=by)] == ['optimizer.lr=0.02', 'optimizer.lr=0.1']
    assert [row.name for row in rows_of(*runs, by=by)] == [
        'mix-up only, optimizer.lr=0.1, model.width=None',
        'MetaSemi, optimizer.lr=0.02, model.width=2',
        'MetaSemi, optimizer.lr=0.1, model.width=2',
    ]
    assert [row.setting for row in rows_of(*runs[:1], by=by)] == [
        {'method.meta': True, 'optimizer.lr': 0.1, 'model.width': 2}
    ]


def refused(message, *folders, by=()):
    with pytest.raises(UserError) as caught:
        rows_of(*folders, by=by)
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_runs_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    runs = [
        write_run(tmp_path / str(seed), tiny_config(seed=seed, batch_size=size), 4.0)
        for seed, size in ((0, 8), (1, 9))
    ]
    refused(f'{runs[1]} differs from {runs[0]} in more than the seed (batch_size: 8 there, 9 here)', *runs)
    refused('as --by=method.meta,batch_size', *runs, by=['method.meta'])
    assert len(rows_of(*runs, by=['batch_size'])) == 2
    # Unfinished ones do not matter, and where the data lie neither.
    (runs[1] / 'results.json').unlink()
    moved = write_run(tmp_path / 'moved', tiny_config(seed=2, data__data_dir='/elsewhere'), 6.0)
    assert [row.seeds for row in rows_of(*runs, moved)] == [[0, 2]]
    (moved / 'class_names.json').write_text('["cat", "dog"]')
    refused(f'{moved} has other classes than {runs[0]}', runs[0], moved)


def test_a_seed_that_comes_twice_is_refused(tmp_path):
    runs = [write_run(tmp_path / name, tiny_config(seed=3), 4.0) for name in 'ab']
    refused(f'{runs[0]} and {runs[1]} are the same settings with the same seed, 3', *runs)


def test_rows_of_unequal_seeds_are_told(tmp_path):
    runs = ablation(tmp_path)
    (runs[0] / 'results.json').unlink()
    assert notes(rows_of(*runs, by=BY)) == [
        'Mean ± standard deviation (n - 1) over the seeds 0, 1; labeled only: 1.'
    ]


@pytest.mark.parametrize(
    ('experiment', 'figures', 'all_labels'),
    [
        (svhn, ['9.76', '3.68', '5.60', '3.15'], '2.67'),
        (cifar10, ['15.43', '11.63', '11.10', '7.78'], '4.88'),
        (cifar100, ['38.74', '35.40', '32.67', '30.74'], '22.10'),
    ],
)
def test_the_papers_figures_stand_beside_its_recipes(tmp_path, experiment, figures, all_labels):
    runs = []
    for number, (mixup, meta) in enumerate(np.ndindex(2, 2)):
        config = changed(experiment.get_config(), method__meta=bool(meta), method__mixup=bool(mixup))
        runs.append(write_run(tmp_path / str(number), config, 5.0))
    rows = rows_of(*runs, by=BY)
    assert [line[-2] for line in cells(rows)] == figures
    assert (
        markdown(rows)
        .splitlines()[0]
        .endswith('| best (selected on test) | published | each seed, last step |')
    )
    assert 'the best of about 1,000 evaluations on the test set, one seed' in notes(rows)[1]
    assert f'With all labels it reports {all_labels}.' in notes(rows)[1]
    assert [line['published'] for line in csv.DictReader(io.StringIO(comma_separated(rows)))] == [
        str(float(figure)) for figure in figures
    ]


@pytest.mark.parametrize(
    'fields',
    [
        {'data__num_labels': 500},
        {'data__name': 'cifar10'},
        {'model__name': 'conv_small'},
        {'model__width': 64},
    ],
)
def test_nothing_else_has_the_papers_figures(tmp_path, fields):
    rows = rows_of(write_run(tmp_path / 'run', changed(svhn.get_config(), **fields), 5.0))
    assert rows[0].published is None
    assert 'published' not in markdown(rows)
    assert len(notes(rows)) == 1


@pytest.mark.parametrize(
    ('experiment', 'name', 'fields', 'error'),
    [
        (cifar10, 'fixmatch', {}, 4.29),
        (cifar10, 'fixmatch', {'data__num_labels': 40}, 8.33),
        (cifar10, 'fixmatch', {'model__width': 2, 'model__depth': 28}, 4.29),
        (svhn, 'freematch', {}, 4.31),
        (cifar100, 'softmatch', {}, 27.26),
        (cifar10, 'vat', {'model__name': 'conv_large'}, 10.55),
        (cifar10, 'vat', {'model__name': 'conv_large', 'method__entropy_weight': 0.0}, 11.36),
        # Another network, another method, other labels: no figure.
        (cifar10, 'fixmatch', {'model__depth': 10}, None),
        (cifar100, 'fixmatch', {}, None),
        (cifar10, 'fixmatch', {'model__name': 'conv_large'}, None),
        (cifar10, 'fixmatch', {'method__meta': True}, None),
        (cifar10, 'fixmatch', {'data__num_labels': 1000}, None),
        # Options that the published programs lack.
        (svhn, 'metasemi', {'method__second_view': 'strong'}, None),
        (svhn, 'metasemi', {'method__temperature': 0.5}, None),
        (svhn, 'metasemi', {'method__meta_moves': 'weights'}, None),
        (svhn, 'metasemi', {'undropped_statistics': True}, None),
        (cifar10, 'fixmatch', {'data__strong': 'affine'}, None),
        # USB's figures are of its bugs.
        (cifar10, 'mean_teacher', {}, None),
        (cifar10, 'uda', {}, None),
        (cifar10, 'supervised', {'model__name': 'conv_large'}, None),
        (cifar10, 'metasemi', {'model__name': 'wide_resnet'}, None),
    ],
)
def test_a_published_figure_is_of_the_same_method_and_network(tmp_path, experiment, name, fields, error):
    rows = rows_of(write_run(tmp_path / 'run', changed(experiment.get_config(name), **fields), 5.0))
    assert (rows[0].published and rows[0].published.error) == error
    if error is not None:
        network = 'ConvLarge' if 'model__name' in fields else 'WideResNet-28-2'
        assert f', {network}, ' in notes(rows)[-1]
        assert notes(rows)[-1].startswith(f'Published for {rows[0].name}: ')
        line = next(csv.DictReader(io.StringIO(comma_separated(rows))))
        assert (line['published'], network in line['published_source']) == (str(error), True)


def test_methods_make_rows_with_their_own_recipes(tmp_path):
    names = ('metasemi', 'mean_teacher', 'fixmatch')
    runs = [
        write_run(tmp_path / f'{name}{seed}', changed(svhn.get_config(name), seed=seed, **fields), 5.0 + seed)
        for name in names
        for seed in (0, 1)
        for fields in [{'model__name': 'wide_resnet', 'total_steps': 100, 'batch_size': 64}]
    ]
    common = {
        'data__include_labeled': True,
        'data__pad_mode': 'reflect',
        'eval_every': 10,
        'checkpoint_every': 10,
    }
    for run in runs:
        config = json.loads((run / 'config.json').read_text())
        for field, value in common.items():
            *group, last = field.split('__')
            (config[group[0]] if group else config)[last] = value
        (run / 'config.json').write_text(json.dumps(config))
    rows = rows_of(*runs, by=['method.name'])
    assert [row.name for row in rows] == ['FixMatch', 'Mean Teacher', 'MetaSemi']
    assert [row.seeds for row in rows] == [[0, 1]] * 3
    assert any(
        'Each method has its own recipe: the rows differ in unlabeled_ratio' in note for note in notes(rows)
    )
    assert rows_of(*runs[:2])[0].name == 'MetaSemi'
    refused('method.name: metasemi there, mean_teacher here', *runs)
    # Within a row, and in what is no recipe, all is as strict as ever.
    for field, value, message in (
        ('threshold', 0.5, 'method.threshold: '),
        ('total_steps', 7, 'total_steps: '),
    ):
        config = json.loads((runs[-1] / 'config.json').read_text())
        changes = {'method': config['method'] | {field: value}} if field == 'threshold' else {field: value}
        (runs[-1] / 'config.json').write_text(json.dumps(config | changes))
        refused(message, *runs, by=['method.name'])
        (runs[-1] / 'config.json').write_text(json.dumps(config))


def test_the_labels_of_a_split_file_are_counted(tmp_path):
    run = write_run(tmp_path / 'run', changed(svhn.get_config(), data__num_labels=0), 5.0)
    (run / 'labeled_ids.txt').write_text(''.join(f'{i}\n' for i in range(900)))
    assert rows_of(run)[0].published is None
    (run / 'validation_ids.txt').write_text(''.join(f'{i}\n' for i in range(900, 1000)))
    assert rows_of(run)[0].published.error == 3.15


def run_report(*arguments):
    command = [sys.executable, '-m', 'metasemi_jax.report', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        report.main(['report', *map(str, arguments)])
    message = caught.value.code
    assert message.startswith('error: ')
    assert '\n' not in message
    assert capsys.readouterr().out == ''
    return message


def test_a_sweep_as_a_user_reports_it(tmp_path):
    folder = tmp_path / 'sweep'
    runs = ablation(folder, ema_decay=0.9)
    write_record(folder, BY, tiny_config())
    (runs[0] / 'results.json').unlink()
    (runs[0] / 'checkpoints' / '8').mkdir(parents=True)
    (runs[0] / 'checkpoints' / '12.orbax-checkpoint-tmp').mkdir()
    (folder / 'not_begun').mkdir()
    (folder / 'not_begun' / 'log.txt').write_text('error: no memory')
    process = run_report(folder)
    assert (process.returncode, process.stderr) == (0, '')
    lines = process.stdout.splitlines()
    assert lines[2] == '| labeled only | 10.00 | 11.00 | 9.00 | 10.0 |'
    assert lines[8] == (
        f'Not finished and left out: {runs[0]} (saved at step 8 of 12), {folder}/not_begun (not begun).'
    )
    assert lines[9] == f'written to {folder}: report.md, report.csv, report.png, report.pdf'
    assert (folder / 'report.md').read_text().splitlines() == lines[:9]
    assert (folder / 'report.csv').read_text().count('\n') == 5
    assert (folder / 'report.pdf').read_bytes().startswith(b'%PDF')
    # Nothing is cut off: the picture's border is white.
    picture = np.asarray(Image.open(folder / 'report.png').convert('L'))
    assert picture.min() < 50
    assert all(edge.min() == 255 for edge in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]))


def test_several_folders_go_to_the_output(tmp_path, capsys):
    runs, output = ablation(tmp_path), tmp_path / 'new' / 'table'
    before = contents(tmp_path)
    assert 'method.meta: False there, True here' in fails(capsys, *runs, f'--output={output}')
    assert contents(tmp_path) == before
    report.main(['report', *map(str, runs), '--by=method.mixup, method.meta', f'--output={output}'])
    rows = capsys.readouterr().out.splitlines()[2:6]
    assert [row.split(' | ')[0] for row in rows] == [
        '| labeled only',
        '| mix-up only',
        '| meta only',
        '| MetaSemi',
    ]
    assert sorted(path.name for path in output.iterdir()) == [
        f'report.{end}' for end in ('csv', 'md', 'pdf', 'png')
    ]


def test_mistakes_end_in_one_line(tmp_path, capsys):
    assert 'name the folders of runs' in fails(capsys)
    (tmp_path / 'empty').mkdir()
    assert 'empty holds neither a run (config.json) nor a sweep' in fails(capsys, tmp_path / 'empty')
    assert 'nowhere does not exist; name the folders of runs' in fails(capsys, tmp_path / 'nowhere')
    run = write_run(tmp_path / 'run', tiny_config(), 4.0)
    assert '--by=optimizer.rl: there is no such setting' in fails(capsys, run, '--by=optimizer.rl')
    assert '--by=seed: there is no such setting' in fails(capsys, run, '--by=seed')
    (run / 'results.json').unlink()
    assert fails(capsys, run) == f'error: no run is finished: {run} (saved at step 0 of 12)'
    (run / 'results.json').write_text('{')
    assert f'{run}/results.json is damaged' in fails(capsys, run)
    (run / 'config.json').write_text('[]')
    assert f'{run}/config.json is damaged' in fails(capsys, run)
    write_record(tmp_path / 'sweep', BY, tiny_config())
    assert fails(capsys, tmp_path / 'sweep') == 'error: no run is finished: there is none'


def test_a_sweep_may_stand_beside_runs(tmp_path):
    sweep = tmp_path / 'sweep'
    ablation(sweep)
    write_record(sweep, BY, tiny_config())
    run = write_run(tmp_path / 'run', tiny_config(seed=7), 5.5)
    folders, by = find_runs([sweep, run])
    assert len(folders) == 9
    assert by == BY
    assert [row.seeds for row in rows_of(*folders, by=by)] == [[0, 1], [0, 1], [0, 1], [0, 1, 7]]


def test_help_explains_every_flag():
    process = run_report('--help')
    assert (process.returncode, process.stderr) == (0, '')
    assert '--by: ' in process.stdout
    assert '--output: ' in process.stdout


def test_what_a_run_warned_of_is_repeated(tmp_path, capsys):
    warned = {'kind': 'collapse', 'step': 8, 'message': 'the predictions fall into few classes'}
    first = write_run(tmp_path / 'first', tiny_config(seed=0), 4.0, warnings=[warned])
    second = write_run(tmp_path / 'second', tiny_config(seed=1), 5.0, warnings=[])
    report.main(['report', str(first), str(second), f'--output={tmp_path / "out"}'])
    line = f'{first} warned at step 8: the predictions fall into few classes.'
    assert line in capsys.readouterr().out.splitlines()
    assert line in (tmp_path / 'out' / 'report.md').read_text().splitlines()
    assert 'second warned' not in (tmp_path / 'out' / 'report.md').read_text()
