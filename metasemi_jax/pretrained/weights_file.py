"""A file of published weights as names and arrays, whichever of the two formats it has."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from metasemi_jax.errors import UserError, as_user_error, reason_of
from metasemi_jax.pretrained.safetensors_file import read_safetensors
from metasemi_jax.pretrained.torch_file import read_torch

SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')
# Under which programs keep the weights beside other things, the averaged ones first.
KEPT_UNDER = ('state_dict_ema', 'model_ema', 'ema', 'state_dict', 'model_state_dict', 'model', 'teacher')
GET_IT = 'download it again'


def is_weights_file(source: str) -> bool:
    """Whether `model.init_from=source` names a file of weights, there or not, and not the folder of a run."""
    path = Path(source)
    return path.is_file() or (path.suffix.lower() in SUFFIXES and not path.is_dir())


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pth` or `.safetensors` file by name; the content says which of the two it is.

    Raises:
      UserError: no such file, one that is damaged, would run code or holds no weights.
    """
    path = Path(path)
    with naming_file(path):
        with path.open('rb') as file:
            start = file.read(64)
        value = _read(path, start)
    weights = _find_weights(value)
    if not weights:
        raise UserError(f'{path} holds no weights: no names with arrays; save the state_dict of a network')
    return weights


def naming_file(path: Path) -> AbstractContextManager[None]:
    """Make what the readers of `path` raise in the block a UserError that names it."""

    def message(error: Exception) -> str:
        match error:
            case FileNotFoundError():
                return f'{path}: there is no such file'
            case OSError():
                return f'{path} cannot be read ({reason_of(error)})'
            case MemoryError():
                return f'{path} does not fit into the memory of this machine'
        return f'{path} {error}'

    return as_user_error((OSError, ValueError, MemoryError), message)


def _read(path: Path, start: bytes) -> Any:
    if not start:
        raise ValueError(f'is empty; {GET_IT}')
    if start.startswith(b'version https://git-lfs'):
        raise ValueError('is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`')
    if start.lstrip().startswith(b'<'):
        raise ValueError(f'is a web page; {GET_IT}')
    return read_safetensors(path) if start[8:9] == b'{' else read_torch(path)


def _find_weights(value: Any) -> dict[str, np.ndarray]:
    for _ in range(2):
        if not isinstance(value, dict):
            return {}
        if arrays := {str(k): v for k, v in value.items() if isinstance(v, np.ndarray)}:
            return arrays
        value = next((value[key] for key in KEPT_UNDER if isinstance(value.get(key), dict)), None)
    return {}
