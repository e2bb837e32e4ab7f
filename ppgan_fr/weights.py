"""Weights on disk: PyTorch checkpoints and ``.pdparams`` files become arrays, and arrays become parameters, strictly.

Reading never executes anything from a file. Both formats are pickles; they go through an unpickler that knows a short
list of harmless names (tensor containers, number types) and refuses every other with the name in the message.
Assigning is strict: every missing, unexpected, mis-shaped and non-finite entry is listed, nothing is skipped.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
INNER_KEYS = ("params_ema", "params", "state_dict", "model_state_dict")
MAX_PICKLE_BYTES = 256 << 20
EXPANSION_SLACK = 64 << 20


class WeightsError(ValueError):
    """A weight file cannot be read, or does not belong to the network."""


# --- what a pickle may contain ---------------------------------------------------------------------------------------

_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
_TORCH_DTYPES = {
    "float64": "<f8",
    "double": "<f8",
    "float32": "<f4",
    "float": "<f4",
    "float16": "<f2",
    "half": "<f2",
    "bfloat16": "bfloat16",
    "int64": "<i8",
    "long": "<i8",
    "int32": "<i4",
    "int": "<i4",
    "int16": "<i2",
    "short": "<i2",
    "int8": "<i1",
    "uint8": "<u1",
    "bool": "?",
    "complex64": "<c8",
    "complex128": "<c16",
}


class _StorageType:
    """Stands for ``torch.FloatStorage`` and its like, or for a ``torch.dtype``."""

    def __init__(self, dtype: str):
        self.dtype = dtype

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize


class _Storage:
    """The flat memory behind tensors; `data` arrives late in legacy files."""

    def __init__(self, kind: _StorageType, numel: int):
        self.kind = kind
        self.numel = numel
        self.data: np.ndarray | None = None

    def fill(self, raw: bytes, big_endian: bool = False) -> None:
        code = "<u2" if self.kind.dtype == "bfloat16" else self.kind.dtype
        data = np.frombuffer(raw, dtype=np.dtype(code).newbyteorder(">" if big_endian else "<"))
        if big_endian:
            data = data.astype(np.dtype(code))
        if self.kind.dtype == "bfloat16":  # the upper half of a float32
            data = (data.astype(np.uint32) << 16).view(np.float32)
        self.data = data


class _Tensor:
    """A view of a storage, turned into an array when everything has been read."""

    def __init__(self, storage, offset, size, stride):
        self.storage, self.offset = storage, offset
        self.size, self.stride = _as_ints(size), _as_ints(stride)

    def array(self, budget: _Budget) -> np.ndarray:
        data = self.storage.data
        if data is None:
            raise WeightsError("a tensor's storage is missing")
        if len(self.size) != len(self.stride) or min((*self.size, *self.stride, self.offset), default=0) < 0:
            raise WeightsError(f"a tensor has impossible size {self.size}, stride {self.stride}, offset {self.offset}")
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride))
        if count and last >= data.size:
            raise WeightsError(f"a tensor of size {self.size} reaches beyond its storage of {data.size} elements")
        budget.spend(count * data.itemsize)
        if not count:
            return np.zeros(self.size, data.dtype)
        strides = [s * data.itemsize for s in self.stride]
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.size, strides, writeable=False)
        return np.array(view, order="C")


class _Budget:
    """Bounds what a file may expand to, so that a small file cannot fill the memory."""

    def __init__(self, file_bytes: int):
        self.left = 16 * file_bytes + EXPANSION_SLACK

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise WeightsError("its contents expand to far more than the file's size; refused")


class _ScriptObject:
    """Inert stand-in for an object of a TorchScript module: it only keeps the state it is given."""

    def __init__(self, *_):
        self.state: Any = None

    def __setstate__(self, state):
        self.state = state


class _Ignored:
    """Inert stand-in for things without weights, such as ``torch.device``."""

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        pass


class _OrderedDict(dict):
    """``collections.OrderedDict`` without the attributes that PyTorch hangs on it (``_metadata``)."""

    def __setstate__(self, state):
        pass


class _DefaultDict(_OrderedDict):
    """``collections.defaultdict`` without its factory."""

    def __init__(self, *_):
        super().__init__()


class _NumpyArray:
    """Stands for an array under ``numpy.ndarray.__setstate__``, checked before any memory is interpreted."""

    def __init__(self, *_):
        self.value = np.zeros(0, np.float32)

    def __setstate__(self, state):
        try:
            _, shape, dtype, fortran, raw = state
            flat = np.frombuffer(_as_bytes(raw), dtype=dtype.numpy())
            self.value = flat.reshape(_as_ints(shape), order="F" if fortran else "C")
        except (TypeError, AttributeError, ValueError) as error:
            raise WeightsError(f"a numpy array in it is damaged ({error})") from None


class _NumpyDtype:
    """``numpy.dtype`` of plain numbers only."""

    def __init__(self, code, *_):
        self.code, self.order = code, "<"

    def __setstate__(self, state):
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"

    def numpy(self) -> np.dtype:
        code = self.code.decode() if isinstance(self.code, bytes) else str(self.code)
        if code.lstrip("<>=|") not in {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}:
            raise WeightsError(f"a numpy array in it has elements of type {code!r}, not numbers")
        return np.dtype(code.lstrip("<>=|")).newbyteorder(">" if self.order == ">" else "<")


_STATEFUL = {_OrderedDict, _DefaultDict, _ScriptObject, _Ignored, _NumpyArray, _NumpyDtype}


def _numpy_scalar(dtype, raw):
    return np.frombuffer(_as_bytes(raw), dtype=dtype.numpy())[0].item()


def _as_bytes(raw) -> bytes:
    return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _encode(text, _encoding="latin1"):
    return text.encode("latin1")  # how pickles of protocol 2 carry bytes


def _as_ints(values) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(isinstance(v, int) for v in values):
        raise WeightsError(f"a tensor has the impossible shape {values!r}")
    return tuple(values)


def _rebuild_tensor(storage, offset, size, stride, *_):
    if not isinstance(storage, _Storage) or not isinstance(offset, int):
        raise WeightsError("a tensor without a storage")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(data, *_):
    return data


def _rebuild_from_type(function, _type, arguments, _state):
    if function not in (_rebuild_tensor, _rebuild_parameter):
        raise WeightsError("a tensor subclass with an unknown constructor")
    return function(*arguments)


def _plain_list(values=()):
    return list(values)


_NUMPY_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NumpyArray,
    ("numpy", "dtype"): _NumpyDtype,
    ("_codecs", "encode"): _encode,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _NUMPY_NAMES[(_module, "_reconstruct")] = _NumpyArray
    _NUMPY_NAMES[(_module, "scalar")] = _numpy_scalar

_PLAIN_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("collections", "defaultdict"): _DefaultDict,
}
for _module in ("builtins", "__builtin__"):
    _PLAIN_NAMES |= {(_module, kind.__name__): kind for kind in (dict, list, tuple, set, frozenset)}

_TORCH_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch", "Tensor"): _Ignored,
    ("torch.nn.parameter", "Parameter"): _Ignored,
    ("torch", "device"): _Ignored,
    ("torch", "Size"): tuple,
    ("torch.serialization", "_get_layout"): _Ignored,
}
for _name, _dtype in _STORAGE_DTYPES.items():
    _TORCH_NAMES[("torch", _name)] = _StorageType(_dtype)
    _TORCH_NAMES[("torch.storage", _name)] = _StorageType(_dtype)
for _name, _dtype in _TORCH_DTYPES.items():
    _TORCH_NAMES[("torch", _name)] = _StorageType(_dtype)
_TORCH_NAMES[("torch.storage", "UntypedStorage")] = _StorageType("<u1")
_TORCH_NAMES[("torch", "UntypedStorage")] = _StorageType("<u1")

_SCRIPT_NAMES: dict[tuple[str, str], Any] = {
    ("torch.jit._pickle", name): _plain_list
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")
} | {("torch.jit._pickle", "restore_type_tag"): _rebuild_parameter}


# The pure-Python unpickler: its memo is a dictionary, so that a crafted memo index cannot reserve gigabytes.
class _Unpickler(pickle._Unpickler):
    def __init__(self, stream, names, storages: Callable[[Any], _Storage] | None = None, script: bool = False):
        super().__init__(stream, encoding="latin1")
        self._names, self._storages, self._script = names, storages, script

    def find_class(self, module, name):
        found = self._names.get((module, name))
        if found is not None:
            return found
        if self._script and (module == "__torch__" or module.startswith("__torch__.")):
            return _ScriptObject
        raise WeightsError(f"it asks for '{module}.{name}', which weights do not need; refused, nothing was executed")

    def persistent_load(self, reference):
        if self._storages is None:
            raise WeightsError("it refers to storages outside itself")
        return self._storages(reference)

    def _build(self):
        # the base class would let a file set attributes of anything on the stack, our functions and classes included
        if type(self.stack[-2]) not in _STATEFUL:
            raise WeightsError("it sets the state of something that has none; refused, nothing was executed")
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    dispatch = pickle._Unpickler.dispatch | {pickle.BUILD[0]: _build}


def _unpickle(stream, names, storages=None, script=False):
    try:
        return _Unpickler(stream, names, storages, script).load()
    except WeightsError:
        raise
    except Exception as error:  # a damaged or hostile pickle can make the machine fail in any way
        raise WeightsError(f"its pickle is damaged ({type(error).__name__}: {error})") from None


def _plain(value, budget: _Budget, seen: dict[int, Any] | None = None):
    """Replaces stand-ins by arrays inside dictionaries, lists and tuples."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Tensor):
        result: Any = value.array(budget)
    elif isinstance(value, _NumpyArray):
        result = value.value
    elif isinstance(value, (_Ignored, _StorageType, _NumpyDtype, _Storage, _ScriptObject)):
        result = None
    elif isinstance(value, dict):
        result = seen[id(value)] = {}
        result.update({key: _plain(item, budget, seen) for key, item in value.items()})
    elif isinstance(value, (list, tuple)):
        result = type(value)(_plain(item, budget, seen) for item in value)
    else:
        result = value
    seen[id(value)] = result
    return result


_DAMAGE = (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, ValueError, OverflowError, MemoryError)


@contextlib.contextmanager
def _about(path: Path):
    """Names the file in every error, and turns the errors of reading into `WeightsError`."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except RecursionError:
        raise WeightsError(f"{path}: nested too deeply") from None
    except _DAMAGE as error:
        raise WeightsError(f"{path}: truncated or damaged ({type(error).__name__}: {error})") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def load_torch(path: str | os.PathLike) -> dict[str, np.ndarray | dict]:
    """Reads a PyTorch checkpoint without PyTorch and without executing anything in it.

    Args:
        path: a file of ``torch.save`` in the zip format or the legacy one (before 1.6), or a TorchScript archive, whose
            parameters and buffers are returned under their dotted names.

    Returns:
        What the file holds, as dictionaries of arrays; bfloat16 becomes float32, other types stay.

    Raises:
        WeightsError: for a file that is missing, truncated, damaged, expands beyond reason, is no checkpoint, or
            whose pickle names anything but tensors and plain values.
    """
    path = Path(path)
    with _about(path):
        with path.open("rb") as file:
            is_zip = file.read(4) == ZIP_MAGIC
        value = _read_zip(path) if is_zip else _read_legacy(path)
        if not isinstance(value, dict):
            raise WeightsError("its top level is no dictionary of tensors")
        return value


def _read_zip(path: Path):
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        budget = _Budget(size)
        pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError("is a zip archive, but not one of torch.save")
        root = pickles[0][: -len("data.pkl")]
        script = any(name.startswith(root + "code/") or name == root + "constants.pkl" for name in entries)
        big_endian = root + "byteorder" in entries and _read_entry(archive, root + "byteorder", 64, budget) == b"big"
        storages: dict[str, _Storage] = {}

        def storage(reference):
            kind, key, numel = _storage_reference(reference)
            if key not in storages:
                storages[key] = _Storage(kind, numel)
                expected = numel * kind.itemsize
                raw = _read_entry(archive, f"{root}data/{key}", expected, budget)
                if len(raw) != expected:
                    raise WeightsError(f"storage {key} should hold {expected} bytes, has {len(raw)}")
                storages[key].fill(raw, big_endian)
            return storages[key]

        stream = io.BytesIO(_read_entry(archive, pickles[0], MAX_PICKLE_BYTES, budget))
        names = _PLAIN_NAMES | _TORCH_NAMES | _NUMPY_NAMES
        value = _unpickle(stream, names | _SCRIPT_NAMES if script else names, storage, script)
        if script:
            return _script_state(value, _Budget(size))
        return _plain(value, _Budget(size))


def _read_entry(archive: zipfile.ZipFile, name: str, limit: int, budget: _Budget) -> bytes:
    """Reads an entry of at most `limit` bytes; what it declares and what it really contains are both checked."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise WeightsError(f"truncated or damaged: {name} is missing") from None
    if info.file_size > limit:
        raise WeightsError(f"{name} declares {info.file_size} bytes where at most {limit} belong")
    budget.spend(info.file_size)
    try:
        with archive.open(info) as entry:
            raw = entry.read(limit + 1)
    except (NotImplementedError, RuntimeError, zipfile.zlib.error) as error:
        raise WeightsError(f"{name} cannot be unpacked ({error})") from None
    if len(raw) > limit:
        raise WeightsError(f"{name} contains more than it declares")
    return raw


def _storage_reference(reference) -> tuple[_StorageType, str, int]:
    valid = isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"
    if not valid or not isinstance(reference[1], _StorageType) or not isinstance(reference[4], int) or reference[4] < 0:
        raise WeightsError("a storage is described wrongly")
    return reference[1], str(reference[2]), reference[4]


def _read_legacy(path: Path):
    size = path.stat().st_size
    names = _PLAIN_NAMES | _TORCH_NAMES | _NUMPY_NAMES
    with path.open("rb") as file:
        try:
            magic = _unpickle(file, names)
        except WeightsError as error:
            if "refused" in str(error):
                raise
            raise WeightsError("is not a PyTorch checkpoint") from None
        if magic != LEGACY_MAGIC or _unpickle(file, names) != LEGACY_PROTOCOL:
            raise WeightsError("is not a PyTorch checkpoint")
        system = _unpickle(file, names)
        big_endian = isinstance(system, dict) and system.get("little_endian") is False
        storages: dict[str, _Storage] = {}
        views: dict[tuple, _Storage] = {}
        pending: list[tuple[_Storage, _Storage, int]] = []

        def storage(reference):
            kind, key, numel = _storage_reference(reference)
            root = storages.setdefault(key, _Storage(kind, numel))
            view = reference[5] if len(reference) > 5 else None
            if view is None:
                return root
            view_key, offset, view_size = view
            if (key, view_key) not in views:
                views[(key, view_key)] = _Storage(kind, int(view_size))
                pending.append((views[(key, view_key)], root, int(offset)))
            return views[(key, view_key)]

        value = _unpickle(file, names, storage)
        keys = _unpickle(file, names)
        if not isinstance(keys, list):
            raise WeightsError("its list of storages is damaged")
        for key in keys:
            if str(key) not in storages:
                raise WeightsError(f"storage {key} belongs to no tensor")
            _fill_legacy(file, storages[str(key)], str(key), size, big_endian)
        for view, root, offset in pending:
            if root.data is None or offset < 0 or offset + view.numel > root.data.size:
                raise WeightsError("a storage view reaches beyond its storage")
            view.data = root.data[offset : offset + view.numel]
        return _plain(value, _Budget(size))


def _fill_legacy(file, storage: _Storage, key: str, size: int, big_endian: bool) -> None:
    (numel,) = struct.unpack(">q" if big_endian else "<q", file.read(8))
    expected = numel * storage.kind.itemsize
    if numel != storage.numel or expected > size:
        raise WeightsError(f"storage {key} should hold {storage.numel} elements, declares {numel}")
    raw = file.read(expected)
    if len(raw) != expected:
        raise WeightsError(f"truncated: storage {key} should hold {expected} bytes, has {len(raw)}")
    storage.fill(raw, big_endian)


def _script_state(root, budget: _Budget) -> dict[str, np.ndarray]:
    """Parameters and buffers of a TorchScript module, by walking its objects; its code stays unread."""
    found: dict[str, np.ndarray] = {}
    entered: set[int] = set()

    def walk(value, prefix):
        if isinstance(value, _Tensor):
            found[prefix] = value.array(budget)
        elif isinstance(value, (_ScriptObject, dict)):
            if id(value) in entered:
                return
            entered.add(id(value))
            state = value.state if isinstance(value, _ScriptObject) else value
            for name, item in state.items() if isinstance(state, dict) else ():
                walk(item, f"{prefix}.{name}" if prefix else str(name))

    walk(root, "")
    return found


# --- choosing the state in a checkpoint ------------------------------------------------------------------------------


def inner_state(checkpoint: dict, key: str | None = None) -> dict[str, np.ndarray]:
    """The flat dictionary of arrays in a checkpoint.

    Args:
        checkpoint: what `load_torch` or `load` returned.
        key: name of the inner dictionary, dotted for deeper ones; None takes ``params_ema``, ``params``,
            ``state_dict`` or ``model_state_dict`` where there is one, else the checkpoint itself.

    Returns:
        Name -> array, without a ``module.`` in front of every name; entries that are no arrays are left out only
        beside arrays (step counters and the like).

    Raises:
        WeightsError: when the key is absent or no arrays are found.
    """
    state: Any = checkpoint
    for part in key.split(".") if key else ():
        if not isinstance(state, dict) or part not in state:
            names = ", ".join(sorted(str(k) for k in state)[:12]) if isinstance(state, dict) else "none"
            raise WeightsError(f"there is no inner dictionary {key!r}; available: {names}")
        state = state[part]
    if key is None:
        state = next((state[k] for k in INNER_KEYS if isinstance(state.get(k), dict)), state)
    if not isinstance(state, dict):
        raise WeightsError(f"{key!r} is a {type(state).__name__}, not a dictionary of tensors")
    arrays = {str(name): value for name, value in state.items() if isinstance(value, np.ndarray)}
    if not arrays:
        inner = [str(name) for name, value in state.items() if isinstance(value, dict)]
        hint = f"; choose one of its inner dictionaries: {', '.join(inner)}" if inner else ""
        raise WeightsError(f"there are no tensors in it{hint}")
    if all(name.startswith("module.") for name in arrays):
        arrays = {name[len("module.") :]: value for name, value in arrays.items()}
    return arrays


# --- into a network --------------------------------------------------------------------------------------------------


def from_torch(layer, state: dict, key: str | None = None) -> None:
    """Sets every parameter and buffer of a layer from a PyTorch state, or changes nothing.

    Names are the attribute paths, which are those of the original. Where Paddle's own layers differ, they are
    translated: the weight of ``nn.Linear`` is transposed, batch norm's ``running_mean`` and ``running_var`` are
    ``_mean`` and ``_variance``, instance norm's ``weight`` is ``scale``, ``PReLU``'s is ``_weight``;
    ``num_batches_tracked`` has no counterpart.

    Args:
        layer: a ``paddle.nn.Layer``.
        state: name -> array, or a checkpoint around it (see `inner_state`).
        key: the inner dictionary to take.

    Raises:
        WeightsError: listing every missing, unexpected, mis-shaped and non-finite entry.
    """
    arrays = inner_state(state, key)
    names, linear, untracked = _torch_names(layer)
    translated: dict[str, np.ndarray] = {}
    shown: dict[str, str] = {}
    for torch_name, array in arrays.items():
        name = names.get(torch_name, torch_name)
        if torch_name in untracked:
            continue
        translated[name] = array.T if name in linear and array.ndim == 2 else array
        shown[name] = torch_name
    shown |= {name: torch_name for torch_name, name in names.items()}
    assign(layer, translated, shown)


def _torch_names(layer) -> tuple[dict[str, str], set[str], set[str]]:
    """PyTorch name -> our name, our names of transposed weights, and the PyTorch names without counterpart."""
    from paddle import nn

    norms = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.BatchNorm, nn.SyncBatchNorm)
    instance_norms = (nn.InstanceNorm1D, nn.InstanceNorm2D, nn.InstanceNorm3D)
    names: dict[str, str] = {}
    linear: set[str] = set()
    untracked: set[str] = set()
    own = set(layer.state_dict())
    for path, sub in layer.named_sublayers(include_self=True):
        prefix = f"{path}." if path else ""
        if isinstance(sub, nn.Linear):
            linear |= {prefix + "weight", prefix + "weight_orig"}
        elif isinstance(sub, norms):
            names[prefix + "running_mean"], names[prefix + "running_var"] = prefix + "_mean", prefix + "_variance"
            untracked.add(prefix + "num_batches_tracked")
        elif isinstance(sub, instance_norms):
            names[prefix + "weight"] = prefix + "scale"
        elif isinstance(sub, nn.PReLU):
            names[prefix + "weight"] = prefix + "_weight"
    return {torch_name: name for torch_name, name in names.items() if name in own}, linear, untracked


def assign(layer, state: dict[str, np.ndarray], shown: dict[str, str] | None = None) -> None:
    """Sets every parameter and buffer of a layer under our own names, or changes nothing.

    Args:
        layer: a ``paddle.nn.Layer``; its method ``unused(name)``, where it has one, says which entries of the state
            belong to parts of the original that the layer leaves out.
        state: name -> array; cast to the type of the parameter.
        shown: our name -> the name to use in messages.

    Raises:
        WeightsError: listing every missing, unexpected, mis-shaped and non-finite entry.
    """
    own = layer.state_dict()
    shown = shown or {}
    unused = getattr(layer, "unused", None)
    if unused is not None:
        state = {name: array for name, array in state.items() if not unused(name)}
    problems = [f"missing: {shown.get(name, name)} {list(own[name].shape)}" for name in own if name not in state]
    problems += [f"unexpected: {shown.get(n, n)} {list(state[n].shape)}" for n in state if n not in own]
    values = {}
    for name in own:
        if name not in state:
            continue
        label, shape, given = shown.get(name, name), list(own[name].shape), list(state[name].shape)
        if given != shape:
            problems.append(f"shape: {label} is {given}, the network has {shape}")
            continue
        values[name] = _cast(state[name], str(own[name].dtype).removeprefix("paddle."))
        if values[name].dtype.kind == "f" and not np.isfinite(values[name]).all():
            count = int((~np.isfinite(values[name])).sum())
            problems.append(f"not finite: {label} has {count} NaN or infinite values")
    if problems:
        head = f"the weights do not fit the network, {len(problems)} differences:"
        raise WeightsError("\n  ".join([head, *problems]))
    for name, value in values.items():
        own[name].set_value(value)


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow becomes infinite, and is reported as such
        return np.ascontiguousarray(array).reshape(array.shape).astype(dtype, copy=False)


# --- Paddle ----------------------------------------------------------------------------------------------------------


def save(state, path: str | os.PathLike, half: bool = False) -> None:
    """Writes a ``.pdparams`` file that ``paddle.load`` reads too; beside the target first, then moved over it.

    Args:
        state: a layer, or name -> array or tensor.
        path: the file; its folder is made.
        half: store float32 as float16 (half the size; `load` gives float32 back).

    Raises:
        WeightsError: when the file cannot be written.
    """
    path = Path(path)
    arrays = {}
    for name, value in (state.state_dict() if hasattr(state, "state_dict") else state).items():
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        arrays[name] = array.astype(np.float16) if half and array.dtype == np.float32 else array
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                pickle.dump(arrays, file, protocol=4)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).chmod(0o644)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error})") from None


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a ``.pdparams`` or ``.pdopt`` file without executing anything in it (``paddle.load`` unpickles freely).

    Args:
        path: a file of `save` or of ``paddle.save``.

    Returns:
        Name -> array, dictionaries inside kept; float16 becomes float32.

    Raises:
        WeightsError: as `load_torch`.
    """
    path = Path(path)
    with _about(path), path.open("rb") as file:
        if file.read(4) == ZIP_MAGIC:
            raise WeightsError("is a PyTorch checkpoint; convert it with tools/convert_weights.py")
        file.seek(0)
        value = _unpickle(file, _PLAIN_NAMES | _NUMPY_NAMES)
        if not isinstance(value, dict):
            raise WeightsError(f"holds a {type(value).__name__}, not a dictionary of parameters")
        value.pop("StructuredToParameterName@@", None)
        return _widen(_paddle_tensors(_plain(value, _Budget(path.stat().st_size))))


def load_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of an ``.npz``; float16 becomes float32, pickled objects are refused.

    Raises:
        WeightsError: as `load_torch`.
    """
    path = Path(path)
    with _about(path):
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: _widen(archive[name]) for name in archive.files}
        except ValueError as error:
            raise WeightsError(f"is not an archive of plain arrays ({error})") from None


def _paddle_tensors(value):
    """``paddle.save`` writes a tensor inside nested values as the pair (name, array)."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        return value[1]
    if isinstance(value, dict):
        return {key: _paddle_tensors(item) for key, item in value.items()}
    return value


def _widen(value):
    """Half precision -> float32; Paddle stores bfloat16 as uint16, a type that its tensors do not have."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint16:
            return (value.astype(np.uint32) << 16).view(np.float32)
        return value.astype(np.float32) if value.dtype == np.float16 else value
    if isinstance(value, dict):
        return {key: _widen(item) for key, item in value.items()}
    return value


def load_into(layer, path: str | os.PathLike, key: str | None = None) -> None:
    """Sets a layer from a file of either kind, told apart by its content: `load` and `assign`, or `load_torch` and
    `from_torch`.

    Args:
        layer: a ``paddle.nn.Layer``.
        path: ``.pdparams``, or a PyTorch checkpoint.
        key: the inner dictionary to take.

    Raises:
        WeightsError: when the file cannot be read or does not fit; the path is in the message.
    """
    path = Path(path)
    if is_torch(path):
        state = load_torch(path)
        with _about(path):
            from_torch(layer, state, key)
        return
    state = load(path)
    with _about(path):
        assign(layer, inner_state(state, key))


def is_torch(path: str | os.PathLike) -> bool:
    """Whether a file begins like a PyTorch checkpoint of either format.

    Raises:
        WeightsError: when it cannot be read.
    """
    path = Path(path)
    with _about(path), path.open("rb") as file:
        head = file.read(64)
    # the legacy format begins with a pickle of its 80-bit magic number
    return head[:4] == ZIP_MAGIC or LEGACY_MAGIC.to_bytes(10, "little") in head
