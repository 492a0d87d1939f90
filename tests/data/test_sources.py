"""Downloads from a server in this process: whole, resumed, cut off, wrong, refused."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gankd.data import sources
from gankd.data.sets import DATA_SETS, Archive, ByHand, DataSet, Download
from gankd.data.sources import fetch
from gankd.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 5000
SHA = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    status: int = 200
    tells_length: bool = True
    cut: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off."""
    asked: list[str | None] = field(default_factory=list)
    """The Range of each request."""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if state.tells_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut.pop(0)] if state.cut else body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up

    running = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{running.server_port}/data.bin"
    yield state
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(autouse=True)
def known(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "toy", toy(Archive(server.url, SHA, len(CONTENT))))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def toy(archive: Archive, unpacks_to: str = "") -> DataSet:
    return DataSet("toy:load_toy", "A toy", "the folder", origin=Download((archive,), unpacks_to))


def refused(folder: Path, name: str = "toy") -> str:
    with pytest.raises(DataError) as caught:
        fetch(name, folder)
    line = str(caught.value)
    assert line.isprintable()
    return line


def test_whole_then_only_checked(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    fetched = fetch("toy", tmp_path / "deep" / "toy", lambda what, done, total, _: seen.append((what, done, total)))
    assert (fetched.path, fetched.transferred) == (tmp_path / "deep" / "toy", len(CONTENT))
    assert fetched.files[0].read_bytes() == CONTENT
    assert [path.name for path in fetched.path.iterdir()] == ["data.bin"]
    assert seen[-1] == ("data.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert fetch("toy", fetched.path).transferred == 0
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_is_gone_on_with(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:700_000])
    fetched = fetch("toy", tmp_path)
    assert server.asked == ["bytes=700000-"]
    assert fetched.transferred == len(CONTENT) - 700_000 * ranges
    assert fetched.files[0].read_bytes() == CONTENT
    assert not (tmp_path / "data.bin.part").exists()


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch("toy", tmp_path).transferred == 0
    (tmp_path / "data.bin").unlink()
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    assert fetch("toy", tmp_path).transferred == len(CONTENT)
    assert server.asked == [f"bytes={len(CONTENT)}-", f"bytes={len(CONTENT) + 4}-", None]


def test_transfers_that_break_off(server: Server, tmp_path: Path) -> None:
    server.cut = [300_000, 200_000]
    assert fetch("toy", tmp_path).transferred == len(CONTENT)
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]
    (tmp_path / "data.bin").unlink()
    server.cut = [1000] * sources.ATTEMPTS
    line = refused(tmp_path)
    assert f"the transfer broke off after {1000 * sources.ATTEMPTS:,} of {len(CONTENT):,} bytes; repeat" in line
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[: 1000 * sources.ATTEMPTS]
    assert fetch("toy", tmp_path).files[0].read_bytes() == CONTENT


def test_a_wrong_checksum(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    assert f"expected sha256 {SHA}, got another file, which was removed" in refused(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.bin").write_bytes(b"mine")
    assert f"expected sha256 {SHA}, got another; move the file away" in refused(tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("tells_length", [True, False])
def test_no_more_is_taken_than_the_file_has(server: Server, tmp_path: Path, tells_length: bool) -> None:
    server.content, server.tells_length = CONTENT * 20, tells_length
    assert f"it sends more than the {len(CONTENT):,} bytes of this file" in refused(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (503, sources.ATTEMPTS)])
def test_errors_of_the_server(server: Server, tmp_path: Path, status: int, requests: int) -> None:
    server.status = status
    line = refused(tmp_path)
    assert line.startswith(f"cannot download {server.url}: {status} ")
    assert f"put the file into {tmp_path} by hand (sha256 {SHA})" in line
    assert len(server.asked) == requests


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "toy", toy(Archive("http://127.0.0.1:9/data.bin", SHA, len(CONTENT))))
    line = refused(tmp_path)
    assert "cannot download http://127.0.0.1:9/data.bin: Connection refused; " in line
    assert f"put the file into {tmp_path} by hand (sha256 {SHA})" in line


def test_an_interrupt_keeps_the_part(server: Server, tmp_path: Path) -> None:
    def interrupt(_: str, done: int, total: int, rate: float) -> None:
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("toy", tmp_path, interrupt)
    have = (tmp_path / "data.bin.part").stat().st_size
    assert 500_000 < have < len(CONTENT)
    assert fetch("toy", tmp_path).transferred == len(CONTENT) - have
    assert server.asked == [None, f"bytes={have}-"]


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Callable[[object], Any] = lambda _: type("Usage", (), {"free": 1000})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage)
    assert "data.bin needs 0.00 GB and the disk has 0.00 GB free" in refused(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_is_unpacked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("inner/train/a.txt", "a")
        file.writestr("../outside.txt", "b")
    server.content = buffer.getvalue()
    archive = Archive(server.url, hashlib.sha256(server.content).hexdigest(), len(server.content))
    monkeypatch.setitem(DATA_SETS, "toy", toy(archive, unpacks_to="inner"))
    fetched = fetch("toy", tmp_path / "toy")
    assert fetched.path == tmp_path / "toy" / "inner"
    assert (fetched.path / "train" / "a.txt").read_text() == "a"
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["data.bin", "inner"]
    assert not (tmp_path / "outside.txt").exists()
    (tmp_path / "toy" / "data.bin").unlink()
    assert fetch("toy", tmp_path / "toy").path == fetched.path
    assert len(server.asked) == 1


def test_what_is_got_by_hand(tmp_path: Path) -> None:
    by_hand = {name: found.origin for name, found in DATA_SETS.items() if isinstance(found.origin, ByHand)}
    assert len(by_hand) == 4
    for name, origin in by_hand.items():
        line = refused(tmp_path / "x", name)
        assert origin.address in line
        assert str(tmp_path / "x") in line
    assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match="no data set 'cifra10' to fetch; did you mean cifar10"):
        fetch("cifra10", tmp_path)


def test_addresses_and_checksums_are_well_formed() -> None:
    origins = [found.origin for name, found in DATA_SETS.items() if name != "toy"]
    archives = [archive for origin in origins if isinstance(origin, Download) for archive in origin.archives]
    assert len({archive.sha256 for archive in archives}) == len(archives) == 7
    assert all(len(bytes.fromhex(archive.sha256)) == 32 and archive.bytes > 4000 for archive in archives)
    assert all(archive.url.startswith("https://") and archive.name.endswith((".gz", ".zip")) for archive in archives)
