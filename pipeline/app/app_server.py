"""Serves the page of `zsseg app` on this machine alone: the standard library's HTTP server.

Only 127.0.0.1 is listened on. A page of another site that a person has open could still send
requests here: those name another host or origin, and are refused.
"""

import json
import logging
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.file_bytes import IMAGE_BYTES

HOST = "127.0.0.1"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the browser lets the page load: its own script, and answers; nothing of another host."""

Answer = Callable[[dict[str, str], bytes], dict[str, object]]
"""Fields of a question and the bytes of an image (none: no image) to values of JSON."""

logger = logging.getLogger(__name__)


class AppServer(socketserver.ThreadingTCPServer):
    """Listens from when it is made; answers once `page` and `answer` are set and it serves.

    Raises ResourceError where the port is taken; port 0 takes a free one.
    """

    daemon_threads = True  # a browser keeps connections open without a word
    allow_reuse_address = True
    page = b""
    answer: Answer

    def __init__(self, port: int) -> None:
        self.answering = threading.Lock()
        """Held while a student is asked: one at a time."""
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ResourceError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): another program has "
                "it, or it is reserved. Give another with --port; 0 takes a free one"
            ) from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke, such as that of a page that was closed."""
        logger.debug("a connection of the page broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: AppServer
    timeout = 60
    """Seconds that a connection may say nothing."""

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)
        elif path == "/app.js":
            script = (files("zsseg.pipeline.app") / "app.js").read_bytes()
            self._send(HTTPStatus.OK, "text/javascript; charset=utf-8", script)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        asked = urlsplit(self.path)
        length = self.headers.get("Content-Length", "")
        if asked.path != "/answer" or not length.isdecimal():
            self._refuse(HTTPStatus.BAD_REQUEST, "this is no question")
        elif int(length) > IMAGE_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the image's file is too large")
        else:
            content = self.rfile.read(int(length))
            fields = {name: values[0] for name, values in parse_qs(asked.query).items()}
            self._answer(fields, content)

    def _answer(self, fields: dict[str, str], content: bytes) -> None:
        try:
            with self.server.answering:
                found = self.server.answer(fields, content)
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except Exception:
            logger.exception("a question of the page met a fault of zsseg's own")
            text = "a fault of zsseg's own; the terminal of `zsseg app` shows it"
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        else:
            self._send(HTTPStatus.OK, "application/json", json.dumps(found).encode())

    def _is_ours(self) -> bool:
        """Does the request come from our page? Others are refused."""
        hosts = {f"{name}:{self.server.port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in hosts and (
            origin is None or origin in {f"http://{host}" for host in hosts}
        ):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"open {self.server.url}: only its page may ask")
        return False

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "application/json", json.dumps({"error": text}).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told."""
