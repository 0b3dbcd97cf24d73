"""Reading what ``torch.save`` wrote, without torch and without running anything the file says.

A ``.pt`` file is a zip of one pickle and one uncompressed member per storage (the numbers). The pickle is a
small program; Python's own unpickler would import and call whatever it names. Here a machine of this module
runs it: it knows plain data, and the dozen constructors torch and DeepSpeed use for tensors, sizes and
settings. Classes of DeepSpeed and its kin become inert :class:`Opaque` values; any other name is an error.
Nothing is ever imported or called.

Format: https://docs.python.org/3/library/pickletools.html (opcodes), torch/serialization.py (zip layout).
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmjobs.zero.dtypes import SIZE
from glmjobs.zero.guarded_files import DAMAGE, open_regular
from glmjobs.zero.layout import Member
from hpc.core.errors import WorkFailed, of_system

# A pickle holds structure, not numbers: even thousands of parameters take a few megabytes.
PICKLE_LIMIT = 512 << 20
RUNS_LIMIT = 1 << 17  # runs of a tensor that is not contiguous; each is a read of its own

STORAGE_DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "complex128",  # not a type of safetensors: refused where such a tensor is needed
}
TORCH_DTYPES = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "int64": "I64", "long": "I64", "int32": "I32", "int": "I32",
    "int16": "I16", "short": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64", "complex128": "complex128",
}  # fmt: skip
# Packages whose classes may stand in a checkpoint beside the tensors (loss scaler, settings): kept as Opaque.
INERT_PACKAGES = ("deepspeed.", "transformers.", "accelerate.", "peft.", "glmjobs.")
INERT_NAMES = {
    "argparse.Namespace", "types.SimpleNamespace", "torch.device", "torch.torch_version.TorchVersion",
    "numpy.dtype", "numpy.ndarray", "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath",
    "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone",
    "torch.memory_format", "torch.Tensor", "torch.nn.parameter.Parameter",
    "collections.deque", "collections.Counter", "uuid.UUID", "uuid.SafeUUID", "decimal.Decimal",
    "fractions.Fraction",
    *(f"{builtins}.{name}" for builtins in ("builtins", "__builtin__") for name in (
        "slice", "range", "xrange", "complex", "bytearray", "object", "Ellipsis", "NotImplemented",
    )),
}  # fmt: skip
# Functions of numpy that rebuild arrays and scalars (random states hold some), under its old and new module
# names.
NUMPY_REBUILDERS = {"multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer"}
# Builtin types that may be named without being called (defaultdict's factory, an annotation).
BUILTIN_TYPES = {"int", "float", "bool", "str", "bytes", "list", "dict", "set", "frozenset", "tuple"}


class Refused(Exception):
    """The pickle asks for what this reader does not do; turned into WorkFailed with the file's name."""


@dataclass(frozen=True)
class Name:
    """A global the pickle names, "module.attribute": a label here, never looked up."""

    path: str


@dataclass
class Opaque:
    """An object of a class this reader does not model: its name, arguments and state, as plain values."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class Storage:
    """A member of the zip that holds ``numel`` numbers of ``dtype`` (a safetensors name)."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor lies: element ``offset`` into a storage, shape, strides in elements. No numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after the other, in row-major order."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected and self.numel:
                return False
            expected *= size
        return True


class TorchFile:
    """One ``torch.save`` file: ``value`` is its content (tensors as TensorRef), ``where`` finds their bytes.

    Raises:
        WorkFailed: one line naming the file, where it is truncated, of another format, or its pickle asks for
            more than data.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._located: dict[str, Member] = {}
        try:
            program = self._program()
        except FileNotFoundError:
            raise WorkFailed(f"{path}: this file of the checkpoint is missing") from None
        except OSError as error:
            raise of_system(error, f"{path}: cannot be read: {error.strerror or error}") from None
        except Refused as error:
            raise WorkFailed(f"{path}: {error}") from None
        except DAMAGE as error:
            raise WorkFailed(f"{path}: damaged: {error}") from None
        try:
            self.value: Any = run_pickle(program)
        except Refused as error:
            raise WorkFailed(f"{path}: refused, {error}") from None

    def _program(self) -> bytes:
        """The pickle. Read so that torch, which finds it in its own way, can find no other."""
        with open_regular(self.path) as file:
            head = file.read(4)
            if head[:1] == b"\x80":
                raise Refused("torch's old format of before version 1.6; load and save it once with torch")
            if head != b"PK\x03\x04":  # torch would run what stands before the zip
                raise Refused("not a file that torch.save wrote" if head else "truncated, it is empty")
            self.size = file.seek(0, 2)
            try:
                archive = zipfile.ZipFile(file)
            except DAMAGE as error:
                raise Refused(
                    f"truncated or damaged ({error}): its table of contents, at the end, cannot be read"
                ) from None
            with archive:
                entries = archive.infolist()
                self._members = {info.filename: info for info in entries}
                if len(self._members) != len(entries):
                    raise Refused("a zip with two entries of one name, which torch.save never writes")
                self.root = self._find_root()
                info = self._members[f"{self.root}/data.pkl"]
                if info.file_size > PICKLE_LIMIT:
                    raise Refused(f"its pickle has {info.file_size} bytes: no checkpoint needs that")
                self._check_byte_order(archive)
                return archive.read(info)

    def _find_root(self) -> str:
        roots = [
            name[: -len("/data.pkl")]
            for name in self._members
            if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if (
            len(roots) != 1
            or f"{roots[0]}/constants.pkl" in self._members
            or not all(name.startswith(f"{roots[0]}/") for name in self._members)
        ):
            raise Refused("a zip, but not one that torch.save wrote (one folder with a data.pkl)")
        return roots[0]

    def _check_byte_order(self, archive: zipfile.ZipFile) -> None:
        name = f"{self.root}/byteorder"
        if name in self._members and archive.read(name).strip() != b"little":
            raise Refused("written on a big-endian machine; this reader takes little-endian files")

    def where(self, storage: Storage) -> int:
        """Byte offset of a storage in the file; its declared size is checked against the file.

        Raises:
            WorkFailed: the member is missing, compressed, shorter than declared, or outside the file.
        """
        member = self.member(storage)
        if member.size < storage.numel * SIZE[storage.dtype]:
            raise WorkFailed(
                f"{self.path}: storage {storage.key} has {member.size} bytes, not the "
                f"{storage.numel * SIZE[storage.dtype]} its tensors need"
            )
        return member.start

    def member(self, storage: Storage) -> Member:
        """The member of the zip that holds a storage.

        Raises:
            WorkFailed: as ``where``.
        """
        if storage.key not in self._located:
            self._located[storage.key] = self._locate(storage.key)
        return self._located[storage.key]

    def storages(self) -> list[Member]:
        """All members that hold numbers, in the order of the file's table of contents.

        Raises:
            WorkFailed: as ``where``.
        """
        folder = f"{self.root}/data/"
        return [self._locate(name[len(folder) :]) for name in self._members if name.startswith(folder)]

    def _locate(self, key: str) -> Member:
        name = f"{self.root}/data/{key}"
        info = self._members.get(name)
        if info is None:
            raise WorkFailed(f"{self.path}: damaged, its storage {key!r} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise WorkFailed(
                f"{self.path}: storage {key} is compressed or encrypted, which torch.save never does"
            )
        try:
            with open_regular(self.path) as file:
                file.seek(info.header_offset)
                header = file.read(30)
        except OSError as error:
            raise of_system(error, f"{self.path}: cannot be read: {error.strerror or error}") from None
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise WorkFailed(f"{self.path}: damaged, no header where storage {key} should begin")
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        start = info.header_offset + 30 + name_length + extra_length
        if start + info.file_size > self.size:
            raise WorkFailed(f"{self.path}: truncated, storage {key} goes past the file's end")
        return Member(self.path, name, start, info.file_size, info.CRC)

    def byte_range(self, tensor: TensorRef, name: str = "a tensor") -> tuple[int, int]:
        """(byte offset in the file, bytes) of a contiguous tensor.

        Raises:
            WorkFailed: as ``runs``; or it is not contiguous.
        """
        if not tensor.contiguous:
            raise WorkFailed(
                f"{self.path}: {name} of shape {list(tensor.shape)} has strides {list(tensor.stride)}; "
                "only contiguous ones can be read here"
            )
        ((offset, count),) = self.runs(tensor, name)
        return offset, count * SIZE[tensor.dtype]

    def runs(self, tensor: TensorRef, name: str) -> list[tuple[int, int]]:
        """(byte offset in the file, elements) of a tensor's runs, which hold it in row-major order.

        A contiguous tensor is one run, a transposed or expanded one has more.

        Raises:
            WorkFailed: naming the tensor; it goes outside its storage, is scattered over too many runs, or of
                a type that safetensors files do not hold.
        """
        if tensor.dtype not in SIZE or tensor.storage.dtype not in SIZE:
            raise WorkFailed(
                f"{self.path}: {name} is of type {tensor.dtype}, which model files cannot hold; "
                "leave it out of the checkpoint (a non-persistent buffer)"
            )
        size = SIZE[tensor.dtype]
        room = tensor.storage.numel * SIZE[tensor.storage.dtype] // size
        reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride, strict=True))
        end = tensor.offset + (reach + 1 if tensor.numel else 0)
        if min((tensor.offset, *tensor.shape, *tensor.stride)) < 0 or end > room:
            raise WorkFailed(
                f"{self.path}: {name}, of shape {list(tensor.shape)} and strides {list(tensor.stride)}, goes "
                f"outside its storage of {room} elements"
            )
        first = self.where(tensor.storage) + tensor.offset * size
        if tensor.contiguous:
            return [(first, tensor.numel)]
        outer, length = len(tensor.shape), 1
        while tensor.shape[outer - 1] == 1 or tensor.stride[outer - 1] == length:
            outer -= 1
            length *= tensor.shape[outer]
        if math.prod(tensor.shape[:outer]) > RUNS_LIMIT:
            raise WorkFailed(
                f"{self.path}: {name}, of shape {list(tensor.shape)}, is stored transposed (strides "
                f"{list(tensor.stride)}); save it contiguous"
            )
        starts = [0]
        for count, stride in zip(tensor.shape[:outer], tensor.stride[:outer], strict=True):
            starts = [start + index * stride for start in starts for index in range(count)]
        return [(first + start * size, length) for start in starts]


def run_pickle(program: bytes) -> Any:
    """Run a pickle as data: the value it builds, with tensors as TensorRef and foreign objects as Opaque.

    Raises:
        Refused: it names or calls anything outside the lists above, or is not a well-formed pickle.
    """
    try:
        return _Machine().run(pickletools.genops(program))
    except Refused:
        raise
    except RecursionError:
        raise Refused("its pickle is nested too deep") from None
    except MemoryError:
        raise Refused("its pickle needs too much memory") from None
    except Exception as error:  # every malformed program ends here: wrong stack, unknown opcode, cut text
        raise Refused(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _Machine:
    """The pickle virtual machine, reduced to the opcodes that build data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        for opcode, argument, _ in program:
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSH_ARGUMENT:
                self.stack.append(argument)
            elif name in _PUSH_CONSTANT:
                self.stack.append(_PUSH_CONSTANT[name]())
            else:
                action = _ACTIONS.get(name)
                if action is None:
                    raise Refused(f"its pickle uses {name}, which no checkpoint does")
                action(self, argument)
        raise Refused("its pickle has no end")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def take(self, count: int) -> list[Any]:
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise Refused("its pickle takes more than it put")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def drop(self) -> None:
        self.take(1)

    def remember(self, argument: Any) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def tuple_of(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):  # a subclass of list: its content does not matter here
            raise Refused(f"its pickle appends to a {type(target).__name__}")

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise Refused(f"its pickle adds to a {type(target).__name__}")
        target.update(_key(item) for item in items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif not isinstance(target, Opaque):
            raise Refused(f"its pickle sets items of a {type(target).__name__}")

    def name(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        self.push_name(module, attribute)

    def stack_name(self, _: Any) -> None:
        module, attribute = self.take(2)
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Refused("its pickle names a global that is no name")
        self.push_name(module, attribute)

    def push_name(self, module: str, attribute: str) -> None:
        self.stack.append(_allowed(module, attribute))

    def call(self, _: Any) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Refused("its pickle calls something that is no constructor")
        self.stack.append(_construct(function.path, arguments))

    def build(self, _: Any) -> None:
        (state,) = self.take(1)
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict | TensorRef):  # attributes of an OrderedDict or tensor: not needed
            raise Refused(f"its pickle sets the state of a {type(target).__name__}")

    def persistent(self, _: Any) -> None:
        (identity,) = self.take(1)
        if not (isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage"):
            raise Refused("its pickle refers to something that is no storage")
        _, kind, key, _, numel = identity[:5]
        dtype = STORAGE_DTYPES.get(kind.path.rpartition(".")[2]) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
            raise Refused(f"its pickle has a storage of unknown kind ({getattr(kind, 'path', kind)})")
        self.stack.append(Storage(key, dtype, numel))


_PUSH_ARGUMENT = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_PUSH_CONSTANT: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "POP": lambda m, a: m.drop(),
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "GET": lambda m, a: m.stack.append(m.memo[a]),
    "BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "TUPLE": lambda m, a: m.tuple_of(m.since_mark()),
    "TUPLE1": lambda m, a: m.tuple_of(m.take(1)),
    "TUPLE2": lambda m, a: m.tuple_of(m.take(2)),
    "TUPLE3": lambda m, a: m.tuple_of(m.take(3)),
    "LIST": lambda m, a: m.stack.append(m.since_mark()),
    "APPEND": lambda m, a: m.append(m.take(1)),
    "APPENDS": lambda m, a: m.append(m.since_mark()),
    "SETITEM": lambda m, a: m.set_items(m.take(2)),
    "SETITEMS": lambda m, a: m.set_items(m.since_mark()),
    "ADDITEMS": lambda m, a: m.add(m.since_mark()),
    "FROZENSET": lambda m, a: m.stack.append(frozenset(_key(item) for item in m.since_mark())),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def _key(value: Any) -> Hashable:
    """A dictionary key or set member: scalars, flat tuples (hashing nested ones can exhaust C's stack)."""
    flat = value if isinstance(value, tuple) else (value,)
    if all(item is None or isinstance(item, str | int | float | bytes | Name) for item in flat):
        return value  # type: ignore[no-any-return]
    if isinstance(value, Opaque | TensorRef):  # keyed by object: kept apart, never looked up
        return id(value)
    raise Refused(f"its pickle uses a {type(value).__name__} as a key")


def _allowed(module: str, attribute: str) -> Name:
    """The global as a label, if it is one that checkpoints have; otherwise refused by name."""
    path = f"{module}.{attribute}"
    known = (
        path in _CONSTRUCTORS
        or path in INERT_NAMES
        or (module.startswith(INERT_PACKAGES) and "." not in attribute)
        or (module in ("torch", "torch.storage") and attribute in STORAGE_DTYPES | {"TypedStorage": ""})
        or (module == "torch" and attribute in TORCH_DTYPES)
        or (module in ("builtins", "__builtin__") and attribute in BUILTIN_TYPES)
        or is_numpy_rebuilder(path)
    )
    if not known:
        raise Refused(
            f"its pickle names {path!r}, which is neither tensor nor plain data (a hostile file, "
            "or an object of your own in the checkpoint's client state)"
        )
    return Name(path)


def is_numpy_rebuilder(path: str) -> bool:
    """Whether a name is that of a function by which numpy rebuilds an array or a scalar."""
    for prefix in ("numpy.core.", "numpy._core."):
        if path.startswith(prefix) and path[len(prefix) :] in NUMPY_REBUILDERS:
            return True
    return False


def _construct(path: str, arguments: tuple[Any, ...]) -> Any:
    constructor = _CONSTRUCTORS.get(path)
    if constructor is not None:
        return constructor(*arguments)
    return Opaque(path, arguments)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> TensorRef:
    """torch._utils._rebuild_tensor and _v2; _v3 adds the dtype, for storages that have none of their own."""
    dtype = next(
        (
            TORCH_DTYPES[item.path[6:]]
            for item in rest
            if isinstance(item, Name) and item.path[6:] in TORCH_DTYPES
        ),
        None,
    )
    sizes = (*shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    if (
        not isinstance(storage, Storage)
        or not isinstance(offset, int)
        or not all(type(n) is int for n in sizes)
    ):
        raise Refused("its pickle has a tensor that is not well-formed")
    if len(shape) != len(stride):
        raise Refused("its pickle has a tensor whose shape and strides differ in length")
    return TensorRef(storage, offset, shape, stride, dtype or storage.dtype)


def _parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, TensorRef):
        raise Refused("its pickle has a parameter that is no tensor")
    return data


def _subclass(function: Any, kind: Any, arguments: Any, state: Any = None) -> TensorRef:
    """torch._tensor._rebuild_from_type_v2: a tensor with Python attributes (DeepSpeed hangs some on it)."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise Refused("its pickle has a tensor that is not well-formed")
    tensor = _construct(function.path, arguments)
    if not isinstance(tensor, TensorRef):
        raise Refused("its pickle has a tensor subclass that is no tensor")
    return tensor


def _size(shape: Any = ()) -> tuple[int, ...]:
    sizes: tuple[int, ...] = tuple(shape) if isinstance(shape, list | tuple) else (-1,)
    if not all(type(n) is int and n >= 0 for n in sizes):
        raise Refused("its pickle has a size that is not made of whole numbers")
    return sizes


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """Protocol 2's way of writing bytes: codecs.encode(text, "latin1")."""
    if not isinstance(text, str) or encoding not in ("latin1", "utf-8"):
        raise Refused("its pickle encodes something that is no text")
    return text.encode(encoding)


def _mapping(items: Any = ()) -> dict[Any, Any]:
    if isinstance(items, Name):  # defaultdict's factory
        return {}
    pairs = items.items() if isinstance(items, dict) else items
    return {_key(key): value for key, value in pairs}


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in items}


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.frozenset": _set,
    "_codecs.encode": _encode,
}
