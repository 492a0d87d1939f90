"""Names of the hub, downloads through its own client from a stand-in on this machine, and what is refused."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gankd import hub
from gankd.errors import ConfigError, HubError, ModelError
from gankd.hub import HubName, is_hub, parse, pull, pull_network, pulled_file, upload

FILES = {
    "model.safetensors": b"weights",
    "config.json": b'{"architecture": "resnet18"}',
    "code.py": b"raise SystemExit",
    "onnx/big.onnx": b"graph",
    "onnx/big.onnx.data": b"its weights",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".onnx", ".data")


def checksum(name: str, content: bytes) -> str:
    """As the hub has it: SHA-256 of large files, that of git of small ones."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class StandIn(BaseHTTPRequestHandler):
    """The part of the hub's interface that downloads use; it asks no other machine."""

    asked: list[str]
    sent: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/some/net"):
            listed: list[dict[str, Any]] = []
            for name, content in FILES.items():
                large = {"size": len(content), "sha256": checksum(name, content), "pointerSize": 9}
                own = {"lfs": large} if name.endswith(LARGE) else {}
                listed.append({"rfilename": name, "size": len(content), "blobId": checksum(name, content), **own})
            content = json.dumps({"id": "some/net", "sha": COMMIT, "siblings": listed, "tags": []}).encode()
            self.reply(200, content, body, {"Content-Type": "application/json"})
            return
        name = path.partition("/some/net/resolve/main/")[2]
        if name not in FILES:
            self.reply(404, b"", body, {"X-Error-Code": "RepoNotFound"})
            return
        content = self.sent.get(name, FILES[name])
        self.reply(200, content, body, {"ETag": f'"{checksum(name, FILES[name])}"', "X-Repo-Commit": COMMIT})

    def reply(self, code: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    """A hub with the repository some/net, for the hub's own client."""
    constants = pytest.importorskip("huggingface_hub.constants")
    handler = type("Handler", (StandIn,), {"asked": [], "sent": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    from huggingface_hub import HfApi

    monkeypatch.setattr(hub, "client", lambda: At(HfApi(endpoint=address, token=False), tmp_path / "cache"))
    yield handler
    server.shutdown()
    server.server_close()


class At:
    """A client that keeps its files in a folder of the test."""

    def __init__(self, api: Any, cache: Path) -> None:
        self.api, self.cache = api, cache
        self.model_info = api.model_info

    def hf_hub_download(self, *args: Any, **more: Any) -> Any:
        return self.api.hf_hub_download(*args, cache_dir=self.cache, **more)

    def snapshot_download(self, *args: Any, **more: Any) -> Any:
        return self.api.snapshot_download(*args, cache_dir=self.cache, **more)


def test_names() -> None:
    assert parse("hf:user/name") == HubName("user/name")
    assert parse("hf:user/my.net@v1.0/onnx/a.onnx") == HubName("user/my.net", "v1.0", "onnx/a.onnx")
    assert is_hub("hf:anything")
    assert not is_hub("my_nets:Tiny")
    for wrong in ("hf:name", "hf:user/name/", "hf:/a/b", "hf:user/name@", "hf:a/b/../../c.onnx", "hf:a/../c.onnx"):
        with pytest.raises(ConfigError, match="write hf:user/name"):
            parse(wrong)
    with pytest.raises(ConfigError, match="only files that hold no code"):
        parse("hf:user/name/pytorch_model.bin")


def test_a_network_is_downloaded_checked_and_kept(stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    files = pull_network("hf:some/net")
    assert [(name, path.read_bytes()) for name, path in files.items()] == [
        (name, FILES[name]) for name in ("model.safetensors", "config.json")
    ]
    assert not any("code.py" in path for path in stand_in.asked)
    assert pulled_file("hf:some/net/onnx/big.onnx").with_name("big.onnx.data").read_bytes() == b"its weights"
    assert pulled_file("student.onnx") == Path("student.onnx")

    def fails(*args: Any, **more: Any) -> None:
        raise ConnectionError("no route to host")

    at = hub.client()
    at.model_info = fails
    monkeypatch.setattr(hub, "client", lambda: at)
    assert pull_network("hf:some/net") == files  # without a network
    with pytest.raises(HubError, match="no file other.onnx in some/net; it has"):
        pull_network("hf:some/net/other.onnx")
    files["model.safetensors"].resolve().write_bytes(b"weightz")
    with pytest.raises(HubError, match="its checksum differs"):
        pull_network("hf:some/net")


def test_a_file_that_the_hub_did_not_promise_is_refused(stand_in: type[StandIn]) -> None:
    stand_in.sent["model.safetensors"] = b"changed"
    with pytest.raises(HubError, match="is not the model.safetensors that some/net names"):
        pull_network("hf:some/net")


def test_what_is_missing_is_named(stand_in: type[StandIn]) -> None:
    with pytest.raises(HubError, match="hf:some/other: there is no such repository, or you may not use it"):
        pull_network("hf:some/other")
    with pytest.raises(HubError, match="no file x.onnx in some/net; it has code.py, config.json"):
        pull_network("hf:some/net/x.onnx")
    with pytest.raises(HubError, match=r"has no .h5 file"):
        pull("hf:some/net", lambda files: [hub.the_one(files, (".h5",), "hf:some/net")])


def test_several_networks_are_a_question() -> None:
    assert hub.the_one(["a.onnx", "model.onnx"], hub.WEIGHTS, "hf:u/n") == "model.onnx"
    assert hub.the_one(["a.onnx", "b.py"], hub.WEIGHTS, "hf:u/n") == "a.onnx"
    with pytest.raises(HubError, match="has 2 such files; name one, as in hf:u/n/a.onnx"):
        hub.the_one(["a.onnx", "b.onnx"], hub.WEIGHTS, "hf:u/n")


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **more: Any) -> None:
        raise OSError("Name or service not known\nretry")

    offline = SimpleNamespace(model_info=fails, snapshot_download=fails, create_repo=fails)
    monkeypatch.setattr(hub, "client", lambda: offline)
    with pytest.raises(HubError, match="cannot be reached .* not in its cache here; get them") as found:
        pull_network("hf:user/name")
    assert "\n" not in str(found.value)
    with pytest.raises(HubError, match="cannot be reached .* or give a folder instead"):
        upload(Path(), "hf:user/name", "m")


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"pip install 'gankd\[hub\]'"):
        pull_network("hf:user/name")
