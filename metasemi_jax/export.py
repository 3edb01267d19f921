"""A run's classifier as one self-contained function, which JAX loads without this package.

    python -m metasemi_jax.export --workdir=runs/mine

It takes uint8 images [b, H, W, C], any number b of them, and returns their probabilities, float32 [b, K]; the
normalisation is in it. Beside the function, in the .json file of the same name, are the names of the classes.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from jax import export as jax_export

from metasemi_jax.classifier import WEIGHTS, Classifier, load_classifier, make_predict
from metasemi_jax.cli import run_command
from metasemi_jax.command.flags import (
    define_output,
    define_weights,
    define_workdir,
    naming_output,
    required_workdir,
)
from metasemi_jax.errors import UserError
from metasemi_jax.files import is_replaceable, write_atomically, write_json
from metasemi_jax.workdir import Workdir
from metasemi_jax.workdir.outputs import check_no_run_file
from metasemi_jax.workdir.reading import read_json

PLATFORMS = ('cpu', 'cuda', 'tpu')


def export_classifier(classifier: Classifier) -> jax_export.Exported:
    """uint8 [b, H, W, C] -> float32 [b, K] as StableHLO, weights included, b being left open.

    It computes in the dtype that `predict` takes on this machine, so the two agree.
    """
    predict = make_predict(classifier)
    (batch,) = jax_export.symbolic_shape('b')
    images = jax.ShapeDtypeStruct((batch, *classifier.input_spec.image_shape), jnp.uint8)
    probs = jax.jit(lambda images: predict(classifier.variables, images)['probs'])
    return jax_export.export(probs, platforms=PLATFORMS)(images)


def write_export(classifier: Classifier, path: str | Path) -> Path:
    """Write the function of `export_classifier` to the file `path`, and `describe` beside it.

    Returns:
      The file of the class names: `path` with the suffix .json.

    Raises:
      UserError: something else lies in the place of the two files.
      OSError: they cannot be written.
    """
    path, names = Path(path), Path(path).with_suffix('.json')
    _check_output(path, names)
    write_atomically(path, bytes(export_classifier(classifier).serialize()))
    write_json(names, describe(classifier))
    return names


def describe(classifier: Classifier) -> dict:
    """Contents of the .json file beside the function."""
    return {
        'class_names': list(classifier.class_names),
        'image_shape': list(classifier.input_spec.image_shape),
        'model': classifier.config.model.name,
        'weights': WEIGHTS[classifier.weights],
        'step': classifier.step,
        'dtype': classifier.dtype.name,
        'platforms': list(PLATFORMS),
        'jax': jax.__version__,
    }


def main(argv: list[str]) -> None:
    """Run the command on `argv`, as `sys.argv` holds it; a failure is one line and the exit code 1."""
    values = flags.FlagValues()
    define_workdir(values)
    define_weights(values)
    define_output(
        values,
        'The file, by default classifier.jax_export in the workdir; the class names go into a .json file of '
        'that name.',
    )
    run_command(lambda: _export(**values.flag_values_dict()), argv, values=values)


def _export(*, workdir: str | None, weights: str, output: str | None) -> None:
    workdir = required_workdir(workdir)
    path = Path(output) if output else Workdir(workdir).path / 'classifier.jax_export'
    with naming_output(path):
        _check_output(path, path.with_suffix('.json'))
    classifier = load_classifier(workdir, weights=weights)
    print(classifier.description)
    with naming_output(path):
        names = write_export(classifier, path)
    size = path.stat().st_size if path.is_file() else 0
    print(f'written to {path} ({size:,} bytes, for {", ".join(PLATFORMS)}), the class names to {names}')


def _check_output(path: Path, names: Path) -> None:
    """Refuse, before the work, to write over what is not an older export."""
    if path.is_dir() or path == names:
        raise UserError(f'output={path} is a folder or a .json file; name another file')
    for each in (path, names):
        check_no_run_file(each)
        if not is_replaceable(each):
            raise UserError(
                f'output={path}: {each} is no regular file, and export writes two files side by side; name '
                'another file'
            )
    for each, is_export in ((path, _is_function), (names, _is_description)):
        if each.exists() and each.stat().st_size and not is_export(each):
            raise UserError(f'output={path}: {each} was not written by export; name another file')


def _is_function(path: Path) -> bool:
    try:
        jax_export.deserialize(path.read_bytes())
    except Exception:  # of every kind: flatbuffers checks nothing
        return False
    return True


def _is_description(path: Path) -> bool:
    try:
        return {'class_names', 'image_shape', 'platforms', 'jax'} <= read_json(path, '').keys()
    except UserError:
        return False


if __name__ == '__main__':
    main(sys.argv)
