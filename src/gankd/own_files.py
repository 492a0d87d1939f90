"""Source files of the user's own modules: those that a module imports, directly or not, and the files that they name.

Files of Python, of installed packages and of gankd do not count. Nothing is imported here.
"""

import ast
import hashlib
import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

import gankd
from gankd.errors import ConfigError

PLAIN = (bool, int, float, str, bytes, tuple, list, dict, set, frozenset, type(None))
IMPORTERS = ("import_module", "__import__", "find_spec")
"""Functions that import a module by its name."""
JOINERS = ("Path", "join", "joinpath", "with_name")
"""Functions that make a path of its parts."""
LONGEST_NAME = 200
"""Characters of a text that may be the name of a file."""

_digests: dict[tuple[str, int, int], str] = {}
_imported: dict[str, tuple[ModuleSpec, str]] = {}
"""Each module of the user's as it was first seen in this process, with the digest of its file."""


class OwnFiles:
    """Digests of the files of the user's modules, by names that hold on any machine.

    Raises:
        ConfigError: a file has changed since this process imported it, so what runs is not what it says.
    """

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        """Digest of each file by its name, such as "blocks.py" or "nets/parts.py"."""
        self.changed: dict[str, str] = {}
        """Constants (names in capitals) that do not have the values of their files any more."""
        self.paths: list[Path] = []
        self._seen: set[str] = set()
        importlib.invalidate_caches()  # files may be a moment old

    @property
    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Path, time and size of each file: equal as long as nothing has to be read again."""
        return tuple(stamp for path in self.paths if (stamp := _stamp(path)))

    def add(self, module: str, beside: Path | None = None) -> None:
        """Add a module with everything of the user's that it imports.

        Args:
            module: its full name.
            beside: folder in which other modules of the user's lie.
        """
        if module in self._seen:
            return
        self._seen.add(module)
        path = _file_of(module, beside)
        if path is None or not is_own(path):
            return
        if "." in module:
            self.add(module.rpartition(".")[0], beside)  # a package runs before its modules
        package = path.stem == "__init__"
        digest = self._note(module.replace(".", "/") + "/__init__" * package + path.suffix, path)
        _refuse_old(module, path, digest)
        if path.suffix == ".py":
            self._read(module, path, module if package else module.rpartition(".")[0])

    def add_file(self, name: str, *folders: Path) -> None:
        """Add the file that a text names, if it does, relative to one of these folders."""
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or "." not in name:
            return
        for folder in folders:
            path = folder / name
            if os.path.isfile(path) and is_own(path):
                self._note(path.name if path.is_absolute() and os.path.isabs(name) else name, path)
                return

    def _note(self, name: str, path: Path) -> str:
        self.paths.append(path)
        self.digests[name] = digest = _digest_of(path)
        return digest

    def _read(self, module: str, path: Path, package: str) -> None:
        """Follow what a file imports and names."""
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return  # its import fails with a better message
        root = path.parents[package.count(".") + 1] if package else path.parent
        for node in ast.walk(tree):
            for name in _modules_of(node, package):
                self.add(name, root)
            if isinstance(node, ast.Call) and _name_of(node.func) in IMPORTERS and node.args:
                self._add_dynamic(node.args[0], path, package, root)
            for text in _texts_of(node):
                self.add_file(text, path.parent, Path.cwd())
        for name, value in _constants(tree):
            now = getattr(sys.modules.get(module), name, value)
            if isinstance(now, PLAIN) and now != value:
                self.changed[f"{module}.{name}"] = repr(now)

    def _add_dynamic(self, argument: ast.expr, path: Path, package: str, root: Path) -> None:
        """Add a module that is imported by a name in quotes, or all that could be where the name is computed."""
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            self.add(_resolved(argument.value, package), root)
            return
        start = next((part.value for part in ast.walk(argument) if isinstance(part, ast.Constant)), "")
        inside = _resolved(str(start), package).rpartition(".")[0]
        found = _file_of(inside, root) if inside else None
        folder, prefix = (path.parent, package) if found is None else (found.parent, inside)
        for each in sorted(folder.glob("*.py")):
            if each.stem != "__init__":
                self.add(f"{prefix}.{each.stem}".lstrip("."), root)


def is_own(path: Path) -> bool:
    """True if a file is the user's: not of Python, of an installed package or of gankd."""
    text = os.path.abspath(path)
    if {"site-packages", "dist-packages"} & set(Path(text).parts):
        return False
    return not any(text.startswith(folder + os.sep) for folder in _libraries())


@cache
def _libraries() -> frozenset[str]:
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [site.getusersitepackages(), str(Path(gankd.__file__).parent)]
    return frozenset(os.path.abspath(folder) for folder in folders)


def _file_of(module: str, beside: Path | None) -> Path | None:
    """File of a module, imported already or not; None if it is built in or not found."""
    loaded = sys.modules.get(module)
    if loaded is None and module.partition(".")[0] in sys.stdlib_module_names:
        return None
    spec: Any = getattr(loaded, "__spec__", None)
    name = getattr(loaded, "__file__", None) or getattr(spec, "origin", None)
    if loaded is None:
        parent = module.rpartition(".")[0]
        above = sys.modules.get(parent)
        folders = list(getattr(above, "__path__", ()))
        if parent and not folders:
            around = _file_of(parent, beside)
            folders = [str(around.parent)] if around else [str((beside or Path.cwd()) / parent.replace(".", "/"))]
        elif not parent:
            folders = [*([str(beside)] if beside else []), os.getcwd(), *sys.path]
        try:
            found = PathFinder.find_spec(module, folders)
        except (ImportError, ValueError, OSError):
            found = None
        name = getattr(found, "origin", None)
    return Path(name) if name and os.path.isfile(name) else None


def _refuse_old(module: str, path: Path, digest: str) -> None:
    loaded: ModuleType | None = sys.modules.get(module)
    spec = getattr(loaded, "__spec__", None)
    if spec is None:
        return
    before, first = _imported.get(module, (None, digest))
    if before is spec and first != digest:
        raise ConfigError(
            f"{path} has changed since this process imported it, so what runs is not what it says; restart Python, "
            f"or call importlib.reload({module}) and make the networks again"
        )
    _imported[module] = (spec, digest)


def _digest_of(path: Path) -> str:
    stamp = _stamp(path)
    if stamp is None or stamp not in _digests:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if stamp is None:
            return digest
        _digests[stamp] = digest
    return _digests[stamp]


def _stamp(path: Path) -> tuple[str, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return str(path), stat.st_mtime_ns, stat.st_size


# --- what a syntax tree says --------------------------------------------------------------------------------


def _modules_of(node: ast.AST, package: str) -> Iterator[str]:
    """Full names of what an import statement may import, at the top of a file or in a function."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _resolved("." * node.level + (node.module or ""), package)
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names if base and alias.name != "*")


def _resolved(name: str, package: str) -> str:
    """An absolute name; empty if a relative one leads out of the package."""
    try:
        return resolve_name(name, package) if name.startswith(".") else name
    except ImportError:
        return ""


def _name_of(function: ast.expr) -> str:
    return str(getattr(function, "id", None) or getattr(function, "attr", ""))


def _texts_of(node: ast.AST) -> Iterator[str]:
    """Texts that may name a file: in quotes, or joined from parts by / or by a function of paths."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    joins = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    if joins or (isinstance(node, ast.Call) and _name_of(node.func) in JOINERS):
        parts = [part for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        parts.sort(key=lambda part: (part.lineno, part.col_offset))
        if len(parts) > 1:
            yield "/".join(str(part.value) for part in parts)


def _constants(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """Names in capitals that a module sets once, to a literal."""
    targets = [
        (node.targets[0].id, node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    ]
    names = [name for name, _ in targets]
    for name, value in targets:
        if name.isupper() and names.count(name) == 1:
            try:
                yield name, ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
