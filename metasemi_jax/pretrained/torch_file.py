"""Reader of PyTorch's `.pth` files without PyTorch: numbers, texts, containers and arrays, and nothing else.

Such a file is a pickle, which may name any function of Python to be called. Here the names of `_known` alone
have a meaning, and each means a function of this module: what else a pickle names is refused before it is
called. Both of PyTorch's formats are read, the zip archive and the one before version 1.6.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
STORAGES = {
    'DoubleStorage': np.dtype('<f8'),
    'FloatStorage': np.dtype('<f4'),
    'HalfStorage': np.dtype('<f2'),
    'BFloat16Storage': np.dtype(jnp.bfloat16),
    'LongStorage': np.dtype('<i8'),
    'IntStorage': np.dtype('<i4'),
    'ShortStorage': np.dtype('<i2'),
    'CharStorage': np.dtype('i1'),
    'ByteStorage': np.dtype('u1'),
    'BoolStorage': np.dtype('?'),
}
BIG_ENDIAN = 'was written on a big-endian machine; save it anew on another'
DAMAGED = 'is no PyTorch file, or a damaged one'
NUMPY_SCALARS = ('f8', 'f4', 'i8', 'i4')  # that may stand among the numbers of a checkpoint


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote: dicts, lists, numbers, texts, and NumPy arrays instead of tensors.

    Raises:
      ValueError: what is wrong, as the rest of '<path> ...'.
      OSError: the file cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive, path.stat().st_size)
        with path.open('rb') as file:
            return _read_older(file)
    except (_RefusedError, OSError):
        raise
    # A damaged pickle may raise any exception.
    except Exception as error:
        raise ValueError(DAMAGED) from error


class _RefusedError(ValueError):
    """A whole file that must not be read."""


class _Storage(NamedTuple):
    """Numbers, of which tensors are views."""

    key: str
    dtype: np.dtype
    count: int


class _Tensor(NamedTuple):
    """A part of a storage; an array once the storages are read, which in the older format is at the end."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class _NumpyDtype:
    """`numpy.dtype` of a scalar; its state, the byte order, is looked at, and kept nowhere."""

    def __init__(self, code: str, *options: Any):
        if code not in NUMPY_SCALARS:
            raise ValueError(code)
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] != '<':
            raise ValueError(state)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding='utf-8')
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == 'torch' and name in STORAGES:
            return name
        if (known := _KNOWN.get(f'{module}.{name}')) is None:
            raise _RefusedError(
                f'would run {module}.{name} when loaded; it was not run: a file of weights must hold a '
                'state_dict, numbers and texts alone'
            )
        return known

    def persistent_load(self, pid: Any) -> _Storage:
        kind, name, key, _, count, *view = pid
        if kind != 'storage' or (view and view[0] is not None):
            raise ValueError(kind)
        storage = _Storage(str(key), STORAGES[name], _size(count))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(storage)
        return storage


def _tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *options: Any) -> _Tensor:
    del options  # whether a gradient is wanted, hooks
    shape, strides = tuple(map(_size, shape)), tuple(map(_size, strides))
    last = _size(offset) + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    # A tensor of many elements with strides of 0 would take memory that its file does not have.
    if math.prod(shape) > storage.count or (math.prod(shape) and last >= storage.count):
        raise ValueError(shape)
    return _Tensor(storage, offset, shape, strides)


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _numpy_scalar(dtype: _NumpyDtype, data: bytes) -> Any:
    return np.frombuffer(data, f'<{dtype.code}')[0].item()


_KNOWN: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': collections.OrderedDict,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': lambda data, *options: data,
    'torch.Size': lambda sizes: tuple(sizes),
    'numpy.dtype': _NumpyDtype,
    'numpy.core.multiarray.scalar': _numpy_scalar,
    'numpy._core.multiarray.scalar': _numpy_scalar,
    # Bytes, as Python 2's pickles have them.
    '_codecs.encode': lambda text, encoding: text.encode('latin1'),
}


def _read_archive(archive: zipfile.ZipFile, file_size: int) -> Any:
    names = archive.namelist()
    pickles = [name for name in names if name.rpartition('/')[2] == 'data.pkl']
    # No entry is larger than the file: PyTorch compresses nothing.
    if len(pickles) != 1 or any(info.file_size > file_size for info in archive.infolist()):
        raise ValueError(names)
    folder = pickles[0].removesuffix('data.pkl')
    if f'{folder}byteorder' in names and archive.read(f'{folder}byteorder') != b'little':
        raise _RefusedError(BIG_ENDIAN)
    unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
    value = unpickler.load()
    return _with_arrays(
        value,
        {
            key: _numbers(archive.read(f'{folder}data/{key}'), storage)
            for key, storage in unpickler.storages.items()
        },
    )


def _read_older(file: BinaryIO) -> Any:
    if (_Unpickler(file).load(), _Unpickler(file).load()) != (MAGIC, PROTOCOL):
        raise ValueError(MAGIC)
    if not _Unpickler(file).load()['little_endian']:
        raise _RefusedError(BIG_ENDIAN)
    unpickler = _Unpickler(file)
    value = unpickler.load()
    numbers = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        if int.from_bytes(file.read(8), 'little') != storage.count:
            raise ValueError(storage)
        numbers[key] = _numbers(file.read(storage.count * storage.dtype.itemsize), storage)
    return _with_arrays(value, numbers)


def _numbers(data: bytes, storage: _Storage) -> np.ndarray:
    if len(data) != storage.count * storage.dtype.itemsize:
        raise ValueError(storage)
    return np.frombuffer(data, storage.dtype)


def _with_arrays(value: Any, numbers: dict[str, np.ndarray]) -> Any:
    """`value` with an array, a read-only view of its storage, for each tensor."""
    # Each container once: one that holds another twice, which holds another twice ..., would take for ever.
    done: dict[int, Any] = {}

    def visit(value: Any) -> Any:
        if id(value) not in done:
            done[id(value)] = replaced(value)
        return done[id(value)]

    def replaced(value: Any) -> Any:
        if isinstance(value, _Tensor):
            storage = numbers[value.storage.key]
            strides = [stride * storage.itemsize for stride in value.strides]
            return np.lib.stride_tricks.as_strided(
                storage[value.offset :], value.shape, strides, writeable=False
            )
        if isinstance(value, dict):
            return {visit(key): visit(child) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(visit, value))
        return value

    return visit(value)
