"""Peers in separate processes, on their own data, that exchange generators of their outputs through a folder."""

import os
import re
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gankd.config import from_dict, require
from gankd.errors import CheckpointError, ConfigError, GankdError
from gankd.losses.distillation.spec import LossModule, loss
from gankd.tasks import Task
from gankd.virtual.losses.own_knowledge import OwnKnowledge, check_temperature, learn_from, sigmoid_ramp, trust
from gankd.virtual.teacher import VirtualTeacher

FRESH = 60.0
"""Seconds after writing a file for which its process counts as alive."""


@dataclass(frozen=True)
class Facts:
    """Facts that a peer publishes with its generator."""

    accuracy: float
    """Recent accuracy in its training."""
    final: bool
    """True at the end of its training."""
    token: str
    """Random name of its training; a resumed training keeps it."""
    host: str
    pid: int

    def __post_init__(self) -> None:
        require(0 <= self.accuracy <= 1, f"accuracy must lie in [0, 1], got {self.accuracy}")

    @property
    def process_is_gone(self) -> bool:
        """True if it was written on this machine by a process that has ended."""
        if self.host != socket.gethostname() or os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)  # sends nothing
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False


@dataclass(frozen=True)
class Peer:
    """Last complete version of a peer's file."""

    teacher: VirtualTeacher
    facts: Facts
    heard: float
    """Time of reading, on this process's clock in seconds."""


@loss("ExchangeVKD", paper="after Kim, IEEE Access 2022", needs="a shared folder and a name in it", own_weight=True)
class ExchangeVKD(LossModule):
    """Learn from samples of generators that peers in other processes put into a shared folder.

        lam mean_i T^2 KL(softmax(sample of peer i / T) || softmax(student / T))

    with lam and `gate` as in PeerVKD. The gate compares with one's own accuracy of `every` updates ago, because the
    accuracies that others publish are as old. A generator of the student's own right outputs, given the label, is
    trained alongside and written to FOLDER/NAME.safetensors every `every` updates and at the end. At the same times,
    and when training begins or resumes, the other files of the folder are read if they have changed. Peers may differ
    in images, order, pace and machine, but need the classes in the same order. They may come and go; without any, the
    student learns only from labels.

    Only complete versions count. Files get their name when complete. A file that cannot be read, is not a peer's or is
    for other classes is ignored until it changes, and the last good version stays in use. A peer that writes nothing
    for `patience` seconds, on this process's clock, is left out until it writes again; a finished peer says so in its
    file and stays (so a new experiment needs a new folder). A failure to write the own file, for example because the
    disk is full, does not stop this peer. `problems` reports all of this, one line per file, and `used` names the
    peers that teach.

    The versions that a process reads, and so its student, depend on the pace of the others: a rerun is not an exact
    repetition.

    Args:
        dataset_labels: (M,) of the training images; their number sets the half-life of the averaged generator.
        task: a classification.
        folder: that the peers share.
        name: of this peer; letters, digits, - and _.
        every: updates between two versions.
        T: temperature; the peers' own may differ.
        patience: seconds.
        gate: leave out peers that are much weaker than this one.

    Returns:
        (N,).

    Raises:
        ConfigError: a setting is missing or out of range, the folder does not exist or is not writable; or, in
            training, another process that is alive (on another machine: was within the last minute) has the same name.

    [1] Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its
        abstract, of which only the idea of collaborative learning is.
    """

    def __init__(
        self,
        dataset_labels: Tensor,
        task: Task,
        *,
        folder: str = "",
        name: str = "",
        every: int = 200,
        T: float = 4.0,
        patience: float = 600.0,
        gate: bool = True,
    ) -> None:
        super().__init__()
        require(bool(folder), 'ExchangeVKD: name the folder that the peers share: folder="peers"')
        require(
            re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None,
            f'ExchangeVKD: each peer needs a name of letters, digits, - and _, as in name="a"; got {name!r}',
        )
        where = Path(folder).expanduser()
        require(where.is_dir(), f"ExchangeVKD: {where} is not a folder; create it where all peers can reach it")
        require(os.access(where, os.W_OK), f"ExchangeVKD: {where} cannot be written to; choose another folder")
        require(every >= 1, f"ExchangeVKD: every must be at least 1, got {every}")
        require(patience > 0, f"ExchangeVKD: patience must be positive, got {patience}")
        check_temperature("ExchangeVKD", T)
        self.task, self.T, self.every, self.patience, self.gate = task, T, every, patience, gate
        self.path = where / f"{name}.safetensors"
        self.knowledge = OwnKnowledge(task, T, len(dataset_labels))
        self.used: dict[str, Peer] = {}
        """Peers that teach, by name."""
        self._versions: dict[str, int] = {}
        self._peers: dict[str, Peer] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._trusted = torch.zeros(0)
        self._accuracy_before: Tensor | None = None
        self._token = secrets.token_hex(8)
        self._progress: float | None = None
        self._listening = False

    def forward(self, student_logits: Tensor, labels: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        if self.training and (not self._listening or self.knowledge.gan.observed % self.every == 0):
            self._listening = True
            self._refuse_namesake()
            self._listen(student_logits.device)
        value = 0 * student_logits.sum(1)
        if self.used:
            draws = [_draw(peer.teacher, labels, generator) for peer in self.used.values()]
            value = value + sigmoid_ramp(progress) * learn_from(draws, self._trusted, student_logits, self.T)
        if self.training:
            self.knowledge.observe(student_logits, labels)
            # The step after this one would be past the end of training.
            final = self._progress is not None and progress + 1.5 * (progress - self._progress) > 1
            self._progress = progress
            if final:
                self.problems["heard"] = self._heard()
            if self.knowledge.gan.ready and (final or self.knowledge.gan.observed % self.every == 0):
                self._publish(final)
        return value

    def _heard(self) -> str:
        """The peers that taught, in words."""
        if not self._versions:
            return f"no peer was heard in {self.path.parent}: this student learned only from its labels"
        heard = ", ".join(f"{name} ({count} version{'s' * (count != 1)})" for name, count in self._versions.items())
        return f"heard {heard}"

    # --- this peer's file -----------------------------------------------------------------------------------

    def _publish(self, final: bool) -> None:
        self._refuse_namesake()
        facts = Facts(float(self.knowledge.accuracy), final, self._token, socket.gethostname(), os.getpid())
        try:
            with torch.random.fork_rng(devices=[]):
                VirtualTeacher.of(self.knowledge.gan, **asdict(facts)).save(self.path)
            self._seen[self.path.stem] = _state(self.path)
            self.problems.pop(self.path.stem, None)
        except OSError as error:
            self.problems[self.path.stem] = f"{self.path} cannot be written: {error.strerror or error}"

    def _refuse_namesake(self) -> None:
        """Raise ConfigError if another running process has written the file of this name."""
        try:
            state = _state(self.path)
            if self._seen.get(self.path.stem) == state:
                return
            facts = _read(self.path, self.task)[1]
        except (GankdError, OSError):
            return  # no such file, or not a usable one
        age = time.time() - state[0] / 1e9
        if facts.token != self._token and not facts.final and age < FRESH and not facts.process_is_gone:
            raise ConfigError(
                f"ExchangeVKD: another peer has written {self.path} within the last minute (process {facts.pid} on "
                f"{facts.host}); give each peer a name of its own, or wait a minute if that one was stopped"
            )

    # --- the files of others --------------------------------------------------------------------------------

    def _listen(self, device: torch.device) -> None:
        """Read the files that have changed, and decide which peers teach until the next time."""
        now = time.monotonic()
        try:
            paths = sorted(self.path.parent.glob("*.safetensors"))
        except OSError as error:
            paths, self.problems[self.path.stem] = [], f"{self.path.parent} cannot be read: {error.strerror or error}"
        for path in paths:
            name = path.stem
            if name == self.path.stem:
                continue
            try:
                state = _state(path)  # before reading: a version written meanwhile is read next time
                if self._seen.get(name) == state:
                    continue
                self._seen[name] = state
                teacher, facts = _read(path, self.task)
            except (GankdError, OSError) as error:
                self.problems[name] = str(error)
                continue
            self.problems.pop(name, None)
            self._peers[name] = Peer(teacher.to(device), facts, now)
            self._versions[name] = self._versions.get(name, 0) + 1
        self.used = {}
        for name, peer in self._peers.items():
            if peer.facts.final or now - peer.heard < self.patience:
                self.used[name] = peer
            else:
                self.problems.setdefault(name, f"{name} has written nothing for {self.patience:g} s and is left out")
        accuracies = torch.tensor([peer.facts.accuracy for peer in self.used.values()], device=device)
        own = self.knowledge.accuracy
        self._trusted = trust(accuracies, own if self._accuracy_before is None else self._accuracy_before, self.gate)
        self._accuracy_before = own

    # --- checkpoint -----------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """State besides tensors: identity, progress and versions read."""
        return {"token": self._token, "progress": self._progress, "versions": self._versions}

    def set_extra_state(self, state: Any) -> None:
        """Inverse of `get_extra_state`; the others' files are not stored, but read again."""
        self._token, self._progress, self._versions = state["token"], state["progress"], state["versions"]


def _state(path: Path) -> tuple[int, int]:
    """Time and size, which change when a file is written again."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _read(path: Path, task: Task) -> tuple[VirtualTeacher, Facts]:
    """A peer's generator and its facts.

    Raises:
        CheckpointError: damaged, or numbers that are not finite. ConfigError: not written by a peer. DataError: other
            classes. OSError: cannot be read.
    """
    with torch.random.fork_rng(devices=[]):  # new networks draw weights before they are filled
        teacher = VirtualTeacher.load(path)
    facts = from_dict(Facts, teacher.facts, f"{path}: not written by a peer")
    teacher.check_task(task, str(path))
    if not all(parameter.isfinite().all() for parameter in teacher.generator.parameters()):
        raise CheckpointError(f"{path} holds weights that are not finite")
    return teacher, facts


def _draw(teacher: VirtualTeacher, labels: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(len(labels), teacher.generator.z_dim, generator=generator, device=labels.device)
    return teacher.draw(labels, noise)
