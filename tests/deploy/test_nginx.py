"""nginx in front, the real one: TLS, who the visitor is, and floods kept away."""

import http.client
import json
import re
import ssl
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import cycle, islice, product
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.launched import Launched
from tests.ports import free_port
from tests.system.processes import Service, write_config

from .tools import DEPLOY, tool


def make_certificate(folder: Path) -> None:
    """A key and its own certificate for 127.0.0.1, where the configuration looks for them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pixel.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Front:
    """nginx with the configuration as it is delivered, but for ports and paths, before a pixel whose SNS is away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        pixel_port, admin_port = free_port(), free_port()
        config = write_config(
            folder / "pixel.yaml",
            {
                # As deploy/systemd/pixel.yaml has it.
                "http": {"host": "127.0.0.1", "port": pixel_port, "trusted_proxies": ["127.0.0.1", "::1"]},
                "admin": {"port": admin_port},
                "outbox": {"dir": "outbox"},
                "sns": {
                    "topic_arn": "arn:aws:sns:us-east-1:000000000000:tracking",
                    "endpoint_url": f"http://127.0.0.1:{free_port()}",
                },
            },
        )
        make_certificate(folder)
        text = (DEPLOY / "nginx/tracker.conf").read_text()
        text = re.sub(r"listen \[::\]:443.*\n", "", text).replace("listen 443", f"listen 127.0.0.1:{self.port}")
        text = text.replace("/etc/nginx/tracker/", f"{folder}/").replace("127.0.0.1:8080", f"127.0.0.1:{pixel_port}")
        (folder / "tracker.conf").write_text(text)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"pid {folder}/nginx.pid;\nerror_log stderr;\ndaemon off;\n"
            f"events {{}}\nhttp {{\n{temporary}include {folder}/tracker.conf;\n}}\n"
        )
        self.pixel = Service("tracker.pixel", config, folder, None, pixel_port, admin_port)
        command = [tool("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
        self._nginx = Launched(command, output_file=folder / "nginx.out", home=folder)
        self.pixel.wait_ready()
        self._nginx.wait_alive(self._answers, "it answers")

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        """A visitor's connection from this address, who checks the certificate."""
        context = ssl.create_default_context(cafile=str(self.folder / "fullchain.pem"))
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, source_address=(source, 0), timeout=20
        )

    def get(self, path: str, headers: dict[str, str] | None = None, source: str = "127.0.0.1") -> tuple[int, bytes]:
        connection = self.connect(source)
        try:
            connection.request("GET", path, headers=headers or {})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def recorded(self) -> list[dict[str, str]]:
        segments = sorted(path for path in (self.folder / "outbox").glob("*/*") if path.name.isdecimal())
        return [json.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]

    def close(self) -> None:
        self._nginx.destroy()
        self.pixel.destroy()

    def _answers(self) -> bool:
        try:
            return self.get("/")[0] == 404
        except OSError:
            return False


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    tool("nginx")
    running = Front(tmp_path_factory.mktemp("front"))
    yield running
    running.close()


def test_a_visitor_is_answered_over_tls_and_logged_with_an_address_of_nobodys_choice(front: Front) -> None:
    forged = {"X-Forwarded-For": "203.0.113.66, 203.0.113.67", "Referer": "https://forged.example"}
    status, body = front.get("/track?page=1", forged, source="127.0.0.2")
    assert (status, body[:6]) == (200, b"GIF89a")
    [visit] = [visit for visit in front.recorded() if visit["Referer"] == "https://forged.example"]
    assert visit["IpAddress"] == "127.0.0.2"


def test_nothing_but_the_pixel_is_reached(front: Front) -> None:
    for path in ("/", "/metrics", "/healthz", "/track/", "/tracking"):
        assert front.get(path)[0] == 404, path


def test_a_connection_serves_many_and_is_kept(front: Front) -> None:
    connection = front.connect()
    for _ in range(3):
        connection.request("GET", "/track")
        assert connection.getresponse().read().startswith(b"GIF89a")
    connection.close()


def test_a_flood_of_one_visitor_is_turned_away_and_nobody_else_is(front: Front) -> None:
    flood = front.connect(source="127.0.0.3")
    statuses = []
    for _ in range(600):
        flood.request("GET", "/track")
        reply = flood.getresponse()
        reply.read()
        statuses.append(reply.status)
    flood.close()
    assert set(statuses) == {200, 429}
    assert statuses[:200] == [200] * 200
    assert front.get("/track", source="127.0.0.4")[0] == 200


CODINGS = ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-unknown", "identity"]
ODD_METHODS = ["GET", "HEAD", "POST", "PUT"]
VISITS = 150  # of one address, below nginx's limit


def visit_many(front: Front, source: str) -> Counter[int]:
    """The statuses that one visitor gets who does nothing odd."""
    statuses = Counter[int]()
    connection = front.connect(source)
    for _ in range(VISITS):
        connection.request("GET", "/track", headers={"User-Agent": "innocent"})
        reply = connection.getresponse()
        reply.read()
        statuses[reply.status] += 1
    connection.close()
    return statuses


def send_odd_bodies(front: Front, source: str) -> Counter[int]:
    """The statuses of requests with bodies of every coding, whole or in chunks, that do not decode."""
    statuses = Counter[int]()
    for method, coding, size, chunked in islice(
        cycle(product(ODD_METHODS, CODINGS, [6, 1_000], [False, True])), VISITS
    ):
        connection = front.connect(source)
        body = b"abcdef"[:size] * (size // 6 or 1)
        connection.request(
            method,
            "/track",
            body=iter([body]) if chunked else body,
            headers={"Content-Encoding": coding},
            encode_chunked=chunked,
        )
        reply = connection.getresponse()
        reply.read()
        statuses[reply.status] += 1
        connection.close()
    return statuses


def test_odd_bodies_of_some_visitors_break_no_connection_that_others_share(front: Front) -> None:
    with ThreadPoolExecutor() as pool:
        innocent = [pool.submit(visit_many, front, f"127.0.1.{number}") for number in range(1, 7)]
        odd = [pool.submit(send_odd_bodies, front, f"127.0.2.{number}") for number in range(1, 4)]
    assert sum((each.result() for each in innocent), Counter[int]()) == {200: 6 * VISITS}
    statuses = sum((each.result() for each in odd), Counter[int]())
    assert set(statuses) == {200, 405}
    assert "Traceback" not in front.pixel.output


def test_what_the_pixel_does_not_answer_is_no_gif(front: Front) -> None:
    """The last of the file: the pixel is gone afterwards."""
    front.pixel.kill()
    status, body = front.get("/track")
    assert status == 502
    assert not body.startswith(b"GIF")
