"""The servers that the pixel is compared with. Each answers with the GIF from memory, in one process on one core.

nginx writes an access log, because the pixel records each visit, too. The others record nothing: h2o and haproxy show
what is possible in C, granian and uvicorn what is possible in Python.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.naive import GIF

SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"  # a user's PATH may lack nginx's directory

_NGINX = """
daemon off; master_process off; worker_processes 1; pid $home/nginx.pid; error_log $home/nginx.err;
events { worker_connections 4096; }
http {
    client_body_temp_path $home/body; proxy_temp_path $home/proxy; fastcgi_temp_path $home/fastcgi;
    uwsgi_temp_path $home/uwsgi; scgi_temp_path $home/scgi;
    keepalive_requests 1000000000;
    server {
        listen 127.0.0.1:$port backlog=4096;
        location = /track { empty_gif; access_log ACCESS_LOG; }
    }
}
"""
_H2O = """
$user
listen: {host: 127.0.0.1, port: $port}
num-threads: 1
hosts: {default: {paths: {/track: {file.file: $home/pixel.gif}}}}
"""
_HAPROXY = """
global
    nbthread 1
defaults
    mode http
    timeout client 60s
frontend pixel
    bind 127.0.0.1:$port
    http-request return status 200 content-type image/gif file $home/pixel.gif hdr Cache-Control no-store
"""


@dataclass(frozen=True)
class Peer:
    """A program of the operating system or, with `is_python`, a Python package with a command of that name."""

    program: str
    arguments: str  # with $home and $port, as `configuration`, which is in the file $home/configuration
    configuration: str = ""
    is_python: bool = False

    def command(self, home: Path, port: int) -> list[str] | None:
        """How to start it, after writing its files to `home`; None where it is not installed."""
        program = shutil.which(self.program, path=SYSTEM_PATH)
        start = [program] if program else []
        if self.is_python:
            start = [sys.executable, "-m", self.program] if importlib.util.find_spec(self.program) else []
        if not start:
            return None
        # h2o does not run as root unless it is told so, and may not be told a user if it was not started by root.
        names = {"home": str(home), "port": str(port), "user": "" if os.geteuid() else "user: root"}
        (home / "pixel.gif").write_bytes(GIF)
        (home / "configuration").write_text(Template(self.configuration).substitute(names))
        return [*start, *Template(self.arguments).substitute(names).split()]


NGINX = "nginx"
PEERS = {
    NGINX: Peer(
        "nginx", "-p $home -c configuration", _NGINX.replace("ACCESS_LOG", "$home/access.log combined buffer=64k")
    ),
    "nginx without a log": Peer("nginx", "-p $home -c configuration", _NGINX.replace("ACCESS_LOG", "off")),
    "h2o": Peer("h2o", "-c $home/configuration", _H2O),
    "haproxy": Peer("haproxy", "-db -f $home/configuration", _HAPROXY),
    "granian": Peer(
        "granian",
        "--interface rsgi --loop uvloop --workers 1 --no-log --host 127.0.0.1 --port $port benchmarks.peers:rsgi",
        is_python=True,
    ),
    "uvicorn": Peer(
        "uvicorn",
        "--http httptools --loop uvloop --no-access-log --host 127.0.0.1 --port $port benchmarks.peers:asgi",
        is_python=True,
    ),
}

_HEADERS = [("content-type", "image/gif"), ("cache-control", "no-store")]
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in [*_HEADERS, ("content-length", str(len(GIF)))]]


async def rsgi(scope: Any, protocol: Any) -> None:
    """The application of granian."""
    protocol.response_bytes(200, _HEADERS, GIF)


async def asgi(scope: dict[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """The application of uvicorn."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": _RAW_HEADERS})
        await send({"type": "http.response.body", "body": GIF})
