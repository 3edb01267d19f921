"""Pictures of what a run has learnt, from its workdir alone, and one page that holds them.

    python -m metasemi_jax.visualize runs/digits
    python -m metasemi_jax.visualize runs/labeled_only runs/metasemi --output=runs/compared

Into WORKDIR/figures, each as .png and .pdf: tsne (the paper's Figure 3: the features of labeled, unlabeled
and test images), curves (losses, errors, learning rate), pseudo_labels (how good the targets of the unlabeled
images are), confusion (which class is taken for which), class_errors, reliability (how far the probabilities
can be taken at their word), mistakes (the most confidently wrong images) and unlabeled (of each class the
unlabeled images that the network is most and least certain of). And report.html, which holds them with
results, counts and settings and opens without a network.

Several runs of the same classes: t-SNE of all, one above the other, and the other pictures of each in a
folder of its name. A run that is not finished, or going on, is shown as it is at its last checkpoint.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from absl import flags

from metasemi_jax.classifier import Classifier, load_classifier
from metasemi_jax.cli import run_command
from metasemi_jax.command.flags import (
    check_output_folder,
    define_data_location,
    define_output,
    define_weights,
    write_output_folder,
)
from metasemi_jax.compilation_cache import enable_compilation_cache
from metasemi_jax.errors import UserError
from metasemi_jax.predict.run_data import RUN_SPLITS
from metasemi_jax.visualize.html_report import is_report
from metasemi_jax.visualize.look import look
from metasemi_jax.visualize.page import NAMES, PAGE, draw_files, undrawable
from metasemi_jax.visualize.run_names import output_folders
from metasemi_jax.visualize.style import FORMATS


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    values = flags.FlagValues()
    _define_flags(values)
    run_command(
        lambda *folders: _visualize(folders, **values.flag_values_dict()), argv, values=values, many=True
    )


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        'num_points',
        2000,
        'Images in the t-SNE of a run, at most: labeled ones first, up to a third, the others at random.',
        lower_bound=10,
        flag_values=values,
    )
    flags.DEFINE_integer(
        'seed',
        0,
        'Of that choice, and of t-SNE.',
        lower_bound=0,
        upper_bound=2**32 - 1,
        flag_values=values,
    )
    define_output(
        values,
        'Folder for the pictures and report.html, made if missing; by default figures in the workdir, for '
        'several runs runs/figures.',
    )
    flags.DEFINE_enum(
        'split',
        None,
        RUN_SPLITS,
        'Images for the confusion matrix and the mistakes; by default test, in runs without a test set '
        'validation.',
        flag_values=values,
    )
    define_weights(values)
    define_data_location(values)


def _visualize(
    folders: Sequence[str],
    *,
    num_points: int,
    seed: int,
    output: str | None,
    split: str | None,
    weights: str,
    data_path: str,
    data_dir: str,
    manual_dir: str,
) -> None:
    if not folders:
        raise UserError('name the folders of runs: metasemi visualize runs/digits')
    started = time.perf_counter()
    enable_compilation_cache()
    classifiers = [load_classifier(folder, weights=weights) for folder in folders]
    _check_runs(classifiers)
    target = _output_folder(output, classifiers)
    runs = []
    for classifier in classifiers:
        print(classifier.description)
        places = {'data_path': data_path, 'data_dir': data_dir, 'manual_dir': manual_dir}
        runs.append(look(classifier, split, num_points=num_points, seed=seed, **places))
    contents = draw_files(runs, seed, now=datetime.now().astimezone())
    if line := undrawable(classifiers[0].class_names):
        print(line)
    _write(target, contents)
    print(f'written to {target} in {time.perf_counter() - started:.1f} s: {", ".join(contents)}')


def _check_runs(classifiers: Sequence[Classifier]) -> None:
    first = classifiers[0]
    for classifier in classifiers[1:]:
        if classifier.class_names != first.class_names:
            raise UserError(
                f'{classifier.files.path} has other classes than {first.files.path}; show them one by one'
            )
    twice = [path for path, n in Counter(c.files.path.resolve() for c in classifiers).items() if n > 1]
    if twice:
        raise UserError(f'{twice[0]} is named twice; name each run once')


def _output_folder(output: str | None, classifiers: Sequence[Classifier]) -> Path:
    """The output folder; an unusable one is refused before the work."""
    several = len(classifiers) > 1
    target = Path(output or ('runs/figures' if several else classifiers[0].files.path / 'figures'))
    folders = output_folders([c.files.path.name for c in classifiers]) if several else []
    _check_output(target, ['', *folders])
    return target


def _check_output(target: Path, folders: Sequence[str]) -> None:
    names = [f'{name}.{suffix}' for name in NAMES for suffix in FORMATS]
    pictures = [target / folder / name for folder in folders for name in names]
    check_output_folder(target, [target / PAGE, *pictures], is_report)


def _write(target: Path, contents: dict[str, bytes]) -> None:
    # The page comes first: a later start recognizes its own pictures by it.
    write_output_folder(target, {PAGE: contents[PAGE]} | contents)


if __name__ == '__main__':
    main(sys.argv)
