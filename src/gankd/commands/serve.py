"""`gankd serve`: a page on this machine where a photograph is dropped, and labelled by student and teacher."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gankd.bench.trained import Trained
from gankd.commands.predict import guarantee, prediction
from gankd.commands.stages import found_run, opened
from gankd.config import require
from gankd.console import Console
from gankd.data.files import photograph
from gankd.errors import ConfigError, DataError, ModelError
from gankd.models.exported import ExportedModel, Outputs, Pixels, open_exported, run_by_torch
from gankd.sizes import size_of
from gankd.stops import Stopped
from gankd.text import number
from gankd.version import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_BYTES = 20_000_000
"""Largest file that is read."""
MOST_PIXELS = 40_000_000
"""Largest photograph that is decoded: half a gigabyte of memory for a moment."""
LIKELY = 3
"""Classes that the page shows."""


@dataclass(frozen=True)
class Voice:
    """A network that labels photographs for the page."""

    name: str
    size: int | str
    """Size of the images that `run` gets."""
    run: Callable[[Pixels], Outputs]


@dataclass(frozen=True)
class Served:
    """Result of `gankd serve`, after its end."""

    address: str
    photos: int

    @property
    def text(self) -> str:
        """The end in a line."""
        return f"{self.address}: {self.photos:,} photograph{'s' * (self.photos != 1)} labelled"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return vars(self)


def serve(
    model: Path | str,
    *,
    teacher: Path | str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    trust: bool = False,
    console: Console | None = None,
) -> Served:
    """Show the page until Ctrl-C.

    Nothing is stored, and no photograph leaves this machine. Whoever reaches `host` can use the page: the default is
    only this machine.

    Args:
        model: file of `gankd export`, of any format.
        teacher: run folder whose teacher answers next to the student; default: only the student answers.
        host: address to listen on.
        port: port to listen on; 0: any that is free.
        trust: run code that the file or the run names.
        console: where the address is printed.

    Raises:
        ConfigError: the address cannot be used. ModelError: the extra serve is missing. CheckpointError: the file
            cannot be used.
    """
    require(0 <= port <= 65535, f"--port must lie in 0..65535, got {port}")
    uvicorn = _required("uvicorn")
    page = Page(open_exported(model, trust=trust), None if teacher is None else teacher_of(teacher, trust=trust))
    app, console = page.app(host), console or Console("quiet")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # the error's own text repeats the address
        raise ConfigError(f"cannot listen on {host}, port {port} ({reason}); choose another --port or --host") from None
    with listening:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        console.say(f"open {address} (Ctrl-C ends it)")
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        try:
            asyncio.run(server.serve(sockets=[listening]))
        except KeyboardInterrupt as stop:
            if isinstance(stop, Stopped) and stop.args[0] != signal.SIGINT:
                raise  # Ctrl-C is how it ends
    return Served(address, page.photos)


def teacher_of(target: Path | str, *, trust: bool = False) -> Voice:
    """The teacher of a finished run.

    Args:
        target: run folder.
        trust: run the code that it names.

    Raises:
        ConfigError: there is no run, or no finished teacher.
    """
    with opened(*found_run(str(target), trust=trust)) as experiment:
        task, (_, height, width) = experiment.splits.task, experiment.splits.train.shape
        found = Trained(experiment, ()).teacher.cpu()
        name = f"teacher {experiment.recipe.teacher.model}"
    return Voice(name, size_of(height, width), run_by_torch(lambda images: task.answers(found(images))))


class Page:
    """The page and what it answers; `app` serves it."""

    def __init__(self, model: ExportedModel, teacher: Voice | None) -> None:
        self.model, self.teacher, self.photos = model, teacher, 0
        student = Voice(f"student {model.card.get('model', '')}".strip(), size_of(*model.sides), model.run)
        self.voices = {"student": student, **({} if teacher is None else {"teacher": teacher})}

    def label(self, content: bytes) -> dict[str, Any]:
        """Plain data of each answer to a photograph.

        Raises:
            DataError: it cannot be read, or is too large.
        """
        found = {who: self._answer(content, who, voice) for who, voice in self.voices.items()}
        self.photos += 1
        return found

    def _answer(self, content: bytes, who: str, voice: Voice) -> dict[str, Any]:
        pixels = photograph(content, voice.size, grey=self.model.channels == 1, most=MOST_PIXELS)
        output, task = voice.run(pixels[None].copy())[0], self.model.task  # writable, as PyTorch asks for
        found = prediction("", output, task, self.model.limit if who == "student" else None)
        facts: dict[str, Any] = {"answer": found.answer, "sure": found.sure}
        if task.label_names:
            best = torch.from_numpy(output).topk(min(LIKELY, len(task.label_names)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return facts | {"likely": [[task.label_names[place], share] for place, share in pairs]}
        if found.facts.get("low") is not None:
            facts["interval"] = f"{number(found.facts['low'])} to {number(found.facts['high'])}"
        return facts

    def html(self, nonce: str) -> str:
        """The page; its script runs because the answer's header names `nonce`."""
        from gankd.report import plots
        from gankd.report.view import template  # matplotlib takes a second to import

        voices = [(who, voice.name) for who, voice in self.voices.items()]
        return template("serve.html").render(
            title=f"{self.model.path.name}: gankd serve",
            name=self.model.path.name,
            task=self.model.task,
            voices=voices,
            guarantee=guarantee(self.model),
            megabytes=MOST_BYTES // 1_000_000,
            megapixels=MOST_PIXELS // 1_000_000,
            nonce=nonce,
            version=__version__,
            light=plots.LIGHT,
            dark=plots.DARK,
        )

    def app(self, host: str = "127.0.0.1") -> "FastAPI":
        """The web application.

        Args:
            host: address that it listens on; on this machine's own, requests for other names are refused, so that no
                page of a stranger can pass for it.

        Raises:
            ModelError: the extra serve is missing.
        """
        fastapi = _required("fastapi")
        responses, pool = _required("fastapi.responses"), _required("fastapi.concurrency")
        app: FastAPI = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        if host in ("127.0.0.1", "localhost", "::1"):
            hosts = _required("starlette.middleware.trustedhost").TrustedHostMiddleware
            app.add_middleware(hosts, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])

        async def page() -> Any:
            nonce = secrets.token_urlsafe(16)
            policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; img-src blob:; "
            policy += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            return responses.HTMLResponse(self.html(nonce), headers={"Content-Security-Policy": policy})

        async def label(request: Any) -> Any:
            content = bytearray()
            async for part in request.stream():
                content += part
                if len(content) > MOST_BYTES:
                    words = f"the file is larger than {MOST_BYTES // 1_000_000} MB"
                    return responses.JSONResponse({"error": words}, 413)
            try:
                return responses.JSONResponse(await pool.run_in_threadpool(self.label, bytes(content)))
            except DataError as error:
                return responses.JSONResponse({"error": str(error)}, 422)

        label.__annotations__["request"] = fastapi.Request
        app.add_api_route("/", page, methods=["GET"])
        app.add_api_route("/label", label, methods=["POST"])
        return app


def _required(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(f"gankd serve needs {module} ({error}): pip install 'gankd[serve]'") from None
