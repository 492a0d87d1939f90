"""The order of packages, and the rules that keep the method readable top-down."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gankd"
MODULES = {
    ".".join(("gankd", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def order() -> list[str]:
    """The order of packages as CONTRIBUTING says it, lowest first."""
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    found = re.search(r"Imports point one way: ((?:`\w+`(?: <- )?)+)", text)
    assert found is not None
    return re.findall(r"`(\w+)`", found[1])


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gankd"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


# The root and `python -m gankd` are the face of the package: nobody imports them for more than its path.
FACE = ("gankd", "gankd.__main__")
GRAPH = {name: set(imports(path)) - {name, "gankd"} for name, path in MODULES.items() if name not in FACE}


def test_contributing_names_every_package_once() -> None:
    packages = [path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()]
    assert sorted(order()) == sorted(packages)


def upward_imports() -> list[str]:
    """Modules at the top of the package are below every folder; folders are in the order of CONTRIBUTING."""
    level = {package: place for place, package in enumerate(order(), 1)}

    def height(module: str) -> int:
        return level.get(module.split(".")[1], 0)

    return [f"{own} -> {other}" for own, others in GRAPH.items() for other in others if height(other) > height(own)]


def test_imports_point_one_way() -> None:
    assert upward_imports() == []


def in_circles() -> list[str]:
    """Modules in an import circle, and those that need them."""
    left = dict(GRAPH)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_import_circles() -> None:
    assert in_circles() == []


STARTS_WORK = re.compile(r"^(make_|train_|distill$|generate$|cgan_kd$|fit$)")


def is_property(node: ast.FunctionDef) -> bool:
    return any("property" in ast.dump(item) for item in node.decorator_list)


def called(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            target = inner.func
            yield target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")


def properties_that_train() -> list[str]:
    found = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and is_property(node):
                found += [f"{name}.{node.name} calls {call}" for call in called(node) if STARTS_WORK.match(call)]
    return found


def test_reading_a_property_starts_no_training() -> None:
    assert properties_that_train() == []


def test_nothing_is_read_for_its_effect() -> None:
    """`_ = thing.part` hides work in a property of ours."""
    trees = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
    nodes = [(name, node) for name, tree in trees.items() for node in ast.walk(tree)]
    ours = {node.name for _, node in nodes if isinstance(node, ast.FunctionDef) and is_property(node)}
    found = [
        f"{name}, line {node.lineno}"
        for name, node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr in ours
        if any(isinstance(target, ast.Name) and target.id == "_" for target in node.targets)
    ]
    assert found == []


LONGEST = 70
"""Lines of a function's body."""


def test_functions_can_be_read_in_one_sitting() -> None:
    """Docstrings do not count; declarations (a dict or a call per line) are the only exception."""
    long = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
                if lines > LONGEST:
                    long.append(f"{name}.{node.name}: {lines}")
    assert long == []


ASKS = re.compile(r"isinstance\([^)]*task, *(Classification|Regression)|task\.kind (==|!=)|\bhas_classes\b")
MOST_QUESTIONS = 15
"""Places outside `tasks` that ask whether labels are classes or values; each gives its reason in a comment."""


def questions() -> list[str]:
    return [
        f"{name}: {line.strip()}"
        for name, path in MODULES.items()
        for line in path.read_text().splitlines()
        if not name.startswith("gankd.tasks") and ASKS.search(line)
    ]


def test_the_task_owns_what_differs_between_classes_and_values() -> None:
    assert len(questions()) < MOST_QUESTIONS, questions()


if __name__ == "__main__":
    for title, found in {
        "import circles": in_circles(),
        "upward imports": upward_imports(),
        "properties that train": properties_that_train(),
        "places that ask for the kind of task": questions(),
    }.items():
        print(f"{title:<38}{len(found)}")
