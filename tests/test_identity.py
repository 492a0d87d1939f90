"""Identity of the user's own code: it changes with everything that a result depends on, and with nothing else."""

import runpy
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gankd.identity import Identity, identity_of_new

HELPED = """
import blocks
from torch import nn
class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
    def forward(self, x):
        return self.head(blocks.act(x))
"""
ACT = "def act(x): return x.relu()\n"
CHANGED = "def act(x): return x.tanh()\n"
LAZY = HELPED.replace("import blocks\n", "").replace("return self", "{}; return self")
CASES: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    "an imported module": ({"mine.py": HELPED, "blocks.py": ACT}, "mine:Tiny", {"blocks.py": CHANGED}),
    "a helper of a helper": (
        {"mine.py": HELPED, "blocks.py": "from deep import act\n", "deep.py": ACT},
        "mine:Tiny",
        {"deep.py": CHANGED},
    ),
    "a module of the package": (
        {"nets/__init__.py": "", "nets/mine.py": HELPED.replace("import b", "from . import b"), "nets/blocks.py": ACT},
        "nets.mine:Tiny",
        {"nets/blocks.py": CHANGED},
    ),
    "a package's own file": (
        {"nets/__init__.py": ACT, "nets/mine.py": HELPED.replace("import blocks", "import nets as blocks")},
        "nets.mine:Tiny",
        {"nets/__init__.py": CHANGED},
    ),
    "a folder without __init__": (
        {"mine.py": HELPED.replace("import b", "from parts import b"), "parts/blocks.py": ACT},
        "mine:Tiny",
        {"parts/blocks.py": CHANGED},
    ),
    "an import in a function": (
        {"mine.py": LAZY.format("import blocks"), "blocks.py": ACT},
        "mine:Tiny",
        {"blocks.py": CHANGED},
    ),
    "an import by name": (
        {
            "mine.py": "import importlib\n" + LAZY.format("blocks = importlib.import_module('blocks')"),
            "blocks.py": ACT,
        },
        "mine:Tiny",
        {"blocks.py": CHANGED},
    ),
    "an import by a computed name": (
        {
            "mine.py": "import importlib\n" + LAZY.format("blocks = importlib.import_module(f'kinds.{self.kind}')"),
            "kinds/__init__.py": "",
            "kinds/soft.py": ACT,
        },
        "mine:Tiny",
        {"kinds/soft.py": CHANGED},
    ),
    "a file that the constructor reads": (
        {
            "mine.py": "import json\nfrom pathlib import Path\nfrom torch import nn\ndef make():\n"
            "    slope = json.loads(Path('net.json').read_text())['slope']\n"
            "    return nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(slope), nn.Linear(4, 2))\n",
            "net.json": '{"slope": 0.1}',
        },
        "mine:make",
        {"net.json": '{"slope": 0.3}'},
    ),
    "a file that is read at import, in another folder": (
        {
            "mine.py": "import json\nfrom pathlib import Path\nfrom torch import nn\n"
            "SLOPE = json.loads((Path(__file__).parent / 'config' / 'net.json').read_text())\n"
            "class Tiny(nn.Linear):\n    def __init__(self): super().__init__(4, 2)\n"
            "    def forward(self, x): return SLOPE * super().forward(x)\n",
            "config/net.json": "1",
        },
        "mine:Tiny",
        {"config/net.json": "2"},
    ),
    "a factory of the library's layers": (
        {"mine.py": "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(4, 2), nn.ReLU())\n"},
        "mine:make",
        {"mine.py": "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(4, 2), nn.Tanh())\n"},
    ),
    "a constant": ({"mine.py": HELPED, "blocks.py": ACT + "A = 1\n"}, "mine:Tiny", {"blocks.py": ACT + "A = 2\n"}),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Callable[[str], Any]]]:
    """Writes the files of a project; gives a function that imports a name from it as a new process would."""
    before = set(sys.modules)

    def forget() -> None:
        for name in set(sys.modules) - before:
            del sys.modules[name]

    def write(files: dict[str, str], folder: Path = tmp_path) -> Callable[[str], Any]:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        forget()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        return lambda name: getattr(import_module(name.partition(":")[0]), name.partition(":")[2])

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    forget()


def identity(get: Callable[[str], Any], name: str) -> Identity:
    with torch.random.fork_rng(devices=[]):

        def make() -> nn.Module:
            torch.manual_seed(0)
            net: nn.Module = get(name)()
            return net

        return identity_of_new(make, name.partition(":")[0])


@pytest.mark.parametrize("case", CASES)
def test_what_a_network_is_made_of_is_its_identity(case: str, project: Callable[..., Any], tmp_path: Path) -> None:
    files, name, edit = CASES[case]
    first = identity(project(files), name).fingerprint
    assert identity(project({}), name).fingerprint == first
    moved = tmp_path / "moved"
    assert identity(project(files, moved), name).fingerprint == first  # at another place, at another time
    assert identity(project({"another.py": "x = 1\n"}), name).fingerprint == first
    assert identity(project(edit), name).fingerprint != first


def test_what_the_time_or_chance_decides_is_left_out(project: Callable[..., Any]) -> None:
    text = "import os, time\nfrom torch import nn\nclass Tiny(nn.Linear):\n    def __init__(self):\n"
    text += "        super().__init__(4, 2)\n        self.born, self.salt = time.time_ns(), os.urandom(8)\n"
    text += "        self.slope = 0.5\n"
    get = project({"mine.py": text})
    assert identity(get, "mine:Tiny").fingerprint == identity(get, "mine:Tiny").fingerprint
    assert {"born", "salt"} & set(identity(get, "mine:Tiny").state) == set()
    assert identity(get, "mine:Tiny").state["slope"] == "0.5"


def test_a_constant_that_a_script_sets_counts(project: Callable[..., Any]) -> None:
    get = project({"mine.py": HELPED, "blocks.py": "SLOPE = 1\ndef act(x): return SLOPE * x\n"})
    before = identity(get, "mine:Tiny").fingerprint
    sys.modules["blocks"].SLOPE = 2  # type: ignore[attr-defined]
    assert identity(get, "mine:Tiny").fingerprint != before


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def other_weights(it: nn.Sequential) -> None:
    with torch.no_grad():
        it.get_parameter("3.bias")[0] += 1e-6


def other_buffer(it: nn.Sequential) -> None:
    it.get_buffer("1.running_mean")[0] += 1


def other_setting(it: nn.Sequential) -> None:
    it[1].eps = 1e-3  # type: ignore[assignment]


def frozen(it: nn.Sequential) -> None:
    it[0].requires_grad_(False)


def hooked(it: nn.Sequential) -> None:
    it[3].register_forward_hook(lambda *given: 2 * given[-1])


def patched(it: nn.Sequential) -> None:
    it.forward = lambda x: x  # type: ignore[method-assign]


def tied(it: nn.Sequential) -> None:
    it[3].bias = it[1].bias


@pytest.mark.parametrize("change", [other_weights, other_buffer, other_setting, frozen, hooked, patched, tied])
def test_the_state_of_a_live_network_is_its_identity(change: Callable[[nn.Sequential], None]) -> None:
    first, second = net(), net().eval()
    assert Identity(first).fingerprint == Identity(second).fingerprint
    change(second)
    assert Identity(first).fingerprint != Identity(second).fingerprint


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_a_compiled_network_is_the_network() -> None:
    assert Identity(torch.compile(net())).fingerprint == Identity(net()).fingerprint


def scaled(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: factor * x


def test_what_a_function_closes_over_is_its_identity() -> None:
    assert Identity(scaled(2.0)).fingerprint == Identity(scaled(2.0)).fingerprint
    assert Identity(scaled(2.0)).fingerprint != Identity(scaled(3.0)).fingerprint


SCRIPT = """
import sys
from torch import nn
import blocks
from gankd.identity import Identity
SCALE = {scale}
def scaled(x):
    return SCALE * blocks.act(x)
class Tiny(nn.Module):
    def forward(self, x):
        # {comment}
        return scaled(x)
unused = act = {unused}
print(Identity(Tiny()).fingerprint, Identity(scaled).fingerprint)
"""


def test_of_a_script_only_what_is_used_counts(
    project: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(act: str = ACT, folder: str = "here", **values: object) -> set[str]:
        here = tmp_path / folder
        script = SCRIPT.format(**{"scale": 1, "comment": "a", "unused": 0} | values)
        project({"blocks.py": act, "script.py": script}, here)
        runpy.run_path(str(here / "script.py"), run_name="__main__")
        return set(capsys.readouterr().out.split())

    first = printed()
    assert printed(comment="b\n", unused=1, folder="there") == first
    assert not printed(scale=2) & first
    assert not printed(act=CHANGED) & first


def test_code_without_a_file_is_read_as_it_runs() -> None:
    text = textwrap.dedent(
        """
        def inner(x): return x + {0}
        def outer(x): return [inner(y) for y in x]
        """
    )

    def outer(number: int) -> Any:
        names: dict[str, Any] = {"__name__": "a cell of a notebook"}
        exec(text.format(number), names)
        return names["outer"]

    assert Identity(outer(1)).fingerprint == Identity(outer(1)).fingerprint
    assert Identity(outer(1)).fingerprint != Identity(outer(2)).fingerprint
