"""Small image sets in real files, written by Pillow."""

import csv

import numpy as np
from PIL import Image

CLASSES = ('cat', 'dog')
TINY_OWN = {
    'data.image_size': 8,
    'data.pad': 1,
    'data.mean': (0.5, 0.5, 0.5),
    'data.std': (0.25, 0.25, 0.25),
    'model.name': 'mlp',  # as in small_runs.py
    'model.width': 2,
    'batch_size': 4,
    'total_steps': 4,
    'log_every': 2,
    'eval_every': 2,
    'checkpoint_every': 4,
    'optimizer.warmup_steps': 2,
    'optimizer.milestones': (3, 4),
}


def random_pixels(seed, size=(8, 8), channels=3):
    shape = (*size, channels) if channels > 1 else size
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_image(path, seed=0, size=(8, 8), channels=3, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_pixels(seed, size, channels)).save(path, **options)


def write_folder(root, *, labeled=(4, 3), unlabeled=9, test=2, val=0, channels=3):
    """`labeled`: images of each class; `test`, `val`: images of every class."""
    seed = 0
    for folder, counts in (('labeled', labeled), ('test', (test, test)), ('val', (val, val))):
        for label, count in zip(CLASSES, counts, strict=True):
            for i in range(count):
                seed += 1
                write_image(root / folder / label / f'{i}.png', seed, channels=channels)
    for i in range(unlabeled):
        write_image(root / 'unlabeled' / f'sub{i % 2}' / f'{i}.png', 100 + i, channels=channels)
    return root


def write_csv(path, rows, header=('path', 'label')):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([header, *rows])
    return path


def own_flags(path, **overrides):
    fields = TINY_OWN | {name.replace('__', '.'): value for name, value in overrides.items()}
    return [
        '--config=configs/folder.py:metasemi',
        f'--config.data.path={path}',
        *(f'--config.{name}={value}' for name, value in fields.items()),
    ]


def own_config(path, **overrides):
    from configs import folder

    config = folder.get_config('metasemi')
    config.update_from_flattened_dict(TINY_OWN | {'data.path': str(path)})
    config.update_from_flattened_dict({name.replace('__', '.'): v for name, v in overrides.items()})
    return config
