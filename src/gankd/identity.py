"""Identity of what a user brings, such as a network or a function: its code and its state.

Equal identities compute the same. They do not depend on where the files lie, on the time, or on the process.
"""

import dis
import enum
import functools
import hashlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from gankd.own_files import IMPORTERS, OwnFiles, is_own

SCALARS = (bool, int, float, complex, bytes, type(None), torch.dtype, torch.device, torch.Size, slice, range)
MAIN = ("__main__", "__mp_main__")
NOT_STATE = {"training", "_is_full_backward_hook", "_non_persistent_buffers_set"}
NOT_STATE |= {"_is_torch_compile", "_compiled_call_impl"}
NOT_CODE = {"__doc__", "__module__", "__dict__", "__weakref__", "__qualname__", "__annotations__", "__firstlineno__"}
NOT_CODE |= {"__static_attributes__", "__annotate_func__", "__annotations_cache__"}


class Identity:
    """The facts that tell one object from another: files of code by name, and state by place in the object."""

    def __init__(self, thing: object, *modules: str) -> None:
        """Args:
        thing: the object.
        modules: names of modules whose code counts too, such as that of the function which made it.
        """
        self.files = OwnFiles()
        self.state: dict[str, str] = {}
        self._seen: dict[int, tuple[str, object]] = {}
        self._add("", thing)
        for module in modules:
            self.files.add(module)

    def common(self, other: "Identity") -> "Identity":
        """Keep only the state that another object, made alike, has too: the rest is left to chance or to the time."""
        self.state = {place: value for place, value in self.state.items() if other.state.get(place) == value}
        return self

    @property
    def fingerprint(self) -> str:
        """Hash of all facts."""
        facts = [self.files.digests, self.files.changed, self.state]
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()

    # --- values ---------------------------------------------------------------------------------------------

    def _add(self, place: str, value: Any, *, within_library: bool = False) -> None:
        """Note a value that is found at a place of the object."""
        if isinstance(value, str):
            self.state[place] = repr(os.path.basename(value) if os.path.isabs(value) else value)
        elif isinstance(value, os.PathLike):
            self.state[place] = f"path {Path(value).name}"
        elif isinstance(value, enum.Enum):
            self.state[place] = f"{type(value).__qualname__}.{value.name}"
        elif isinstance(value, SCALARS):
            self.state[place] = repr(value)
        elif isinstance(value, tuple):  # equal ones may be one object or not
            self.state[place] = f"{type(value).__qualname__} of {len(value)}"
            self._add_all(place, dict(enumerate(value)), within_library=within_library)
        elif id(value) in self._seen:
            self.state[place] = f"as {self._seen[id(value)][0]}"  # tied weights, and circles
        else:
            self._seen[id(value)] = place, value  # held, so that no other object gets its id
            self._add_object(place, value, within_library)

    def _add_object(self, place: str, value: Any, within_library: bool) -> None:
        if isinstance(value, Tensor):
            self.state[place] = _tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            array = np.ascontiguousarray(value)
            content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            self.state[place] = f"{array.dtype} {array.shape} {_hash(content)}"
        elif isinstance(value, type):
            self._add_class(place, value)
        elif isinstance(value, types.ModuleType):
            self.state[place] = f"module {value.__name__}"
            self.files.add(value.__name__)
        elif isinstance(value, types.FunctionType):
            self._add_function(place, value)
        elif isinstance(value, types.MethodType):
            self._add_all(place, {"function": value.__func__, "self": value.__self__})
        elif isinstance(value, functools.partial):
            self._add_all(place, {"function": value.func, "args": value.args, "keywords": value.keywords})
        elif isinstance(value, staticmethod | classmethod):
            self._add(place, value.__func__)
        elif isinstance(value, property):
            self._add_all(place, {"get": value.fget, "set": value.fset})
        elif isinstance(value, Mapping):
            self.state[place] = type(value).__qualname__
            self._add_all(place, {str(key): value[key] for key in value}, within_library=within_library)
        elif isinstance(value, list):
            self.state[place] = f"{type(value).__qualname__} of {len(value)}"
            self._add_all(place, dict(enumerate(value)), within_library=within_library)
        elif isinstance(value, set | frozenset):
            self.state[place] = f"set {sorted(map(str, value))}"
        elif isinstance(value, torch.jit.ScriptModule):
            code = [getattr(part, "code", "") for part in value.modules()]
            self.state[place] = f"script {_hash(repr(code).encode())}"
            self._add_all(place, value.state_dict())
        elif isinstance(value, nn.Module):
            self._add_module(place, value)
        else:
            self._add_instance(place, value, within_library)

    def _add_all(self, place: str, parts: Mapping[Any, Any], *, within_library: bool = False) -> None:
        for name, part in parts.items():
            self._add(f"{place}.{name}".lstrip("."), part, within_library=within_library)

    def _add_module(self, place: str, module: nn.Module) -> None:
        plain = getattr(module, "_orig_mod", None)  # of torch.compile, which computes the same
        if isinstance(plain, nn.Module):
            self._add(place, plain)
            return
        self._add(f"{place}()", type(module))
        for name, part in vars(module).items():
            if "hooks" in name:
                self._add_all(place, {name: list(part.values())} if part else {})  # their keys are numbers by chance
            elif name not in NOT_STATE:
                self._add_all(place, {name: part})

    def _add_instance(self, place: str, value: Any, within_library: bool) -> None:
        """An object of some class; in one of a library, those of other library classes count by their kind only."""
        own = _is_own_module(type(value).__module__)
        self._add(f"{place}()", type(value))
        if name := getattr(value, "__qualname__", None) or getattr(value, "__name__", None):
            self.state[place] = str(name)  # a function that is not written in Python
        elif (own or not within_library) and not isinstance(value, RemovableHandle):  # which holds a number by chance
            parts = dict(getattr(value, "__dict__", {}))
            parts |= {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
            self._add_all(place, parts, within_library=not own)

    # --- code -----------------------------------------------------------------------------------------------

    def _add_class(self, place: str, kind: type) -> None:
        self.state[place] = f"class {_module_name(kind.__module__)}.{kind.__qualname__}"
        if not _is_own_module(kind.__module__):
            return
        for number, base in enumerate(kind.__bases__):
            self._add(f"{place}/{number}", base)
        filed = _has_file(kind.__module__)
        if filed:
            self.files.add(kind.__module__)
        for name, part in vars(kind).items():
            # Of a class in a file only what the functions hold that made it is not written there.
            made_here = isinstance(part, types.FunctionType) and part.__closure__ is not None
            descriptor = isinstance(part, types.GetSetDescriptorType | types.MemberDescriptorType)
            if name not in NOT_CODE and not descriptor and (made_here or not filed):
                self._add(f"{place}.{name}", part, within_library=True)

    def _add_function(self, place: str, function: types.FunctionType) -> None:
        module = function.__module__ or ""
        self.state[place] = f"function {_module_name(module)}.{function.__qualname__}"
        if not _is_own_module(module):
            return
        cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        self._add_all(place, {"cells": cells, **vars(function)})
        if _has_file(module):
            self.files.add(module)
            return
        self._add_all(place, {"defaults": function.__defaults__, "keywords": function.__kwdefaults__})
        self.state[f"{place} code"] = self._code(function.__code__)
        for module in _imported_by(function.__code__):
            self.files.add(module, Path(function.__code__.co_filename).parent)
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                self._add(f"{place}:{name}", function.__globals__[name])

    def _code(self, code: types.CodeType) -> str:
        """Hash of a function without a file that others import: a script's or a notebook's."""
        consts = []
        for const in code.co_consts:
            if isinstance(const, str):
                self.files.add_file(const, Path.cwd(), Path(code.co_filename).parent)
            if isinstance(const, types.CodeType):
                consts.append(self._code(const))
            else:
                consts.append(repr(sorted(map(repr, const)) if isinstance(const, frozenset) else const))
        return _hash(repr([code.co_code, code.co_names, code.co_varnames, code.co_freevars, consts]).encode())


def _names(code: types.CodeType) -> set[str]:
    """Global names that a function and the functions in it read; those of attributes do not count."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_names(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _imported_by(code: types.CodeType) -> set[str]:
    """Modules that a function imports when it runs, and texts that may name such."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname == "IMPORT_NAME" and each.argval}
    if set(code.co_names) & set(IMPORTERS):
        found |= {const for const in code.co_consts if isinstance(const, str)}
    return found.union(*(_imported_by(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not set yet
        return False


def _slots(kind: type) -> Iterable[str]:
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _module_name(name: str | None) -> str:
    return "__main__" if name in MAIN else str(name)


def is_users(thing: object) -> bool:
    """True if a class or function is the user's."""
    return _is_own_module(getattr(thing, "__module__", None))


def _is_own_module(name: str | None) -> bool:
    """True for the modules of the user's; one that is not there any more ran from a text."""
    if name in MAIN or name not in sys.modules:
        return True
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and is_own(Path(file))


def _has_file(name: str | None) -> bool:
    """True if the module is read from a file as a whole. A script is not: only what is used of it counts."""
    return name not in MAIN and name in sys.modules


def _tensor(value: Tensor) -> str:
    facts = f"{value.dtype} {'frozen ' * (isinstance(value, nn.Parameter) and not value.requires_grad)}"
    if is_lazy(value) or value.is_meta:
        return f"{facts}without values"
    try:
        plain = value.detach().cpu().contiguous().flatten()
        content = plain.view(torch.uint8).numpy().tobytes()
    except RuntimeError:  # sparse, quantised
        content = repr(value).encode()
    return f"{facts}{tuple(value.shape)} {_hash(content)}"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def identity_of_new(make: Callable[[], object], *modules: str) -> Identity:
    """Identity of an object that a call makes; what differs between two calls does not count."""
    return Identity(make(), *modules).common(Identity(make(), *modules))
