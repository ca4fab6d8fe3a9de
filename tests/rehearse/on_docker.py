"""The image of the guide, built and run without privileges; and the composition, with LocalStack from PyPI.

The image: its base is replaced (`--build-arg BASE=`), because no registry is asked. Both services run from it with a
read-only root, as no root, without capabilities, at the local broker. They are killed and started again.

The composition: `up` as the guide has it, with a second file that replaces the image of LocalStack by LocalStack from
PyPI and leaves out the archive, whose image needs more packages. In both, every visit that was answered is in the log
once.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.guides import guide
from tests.launched import Launched
from tests.rehearse.engine import BASE, Engine, find_programs
from tests.rehearse.prepared import debian, localstack, sources, wheels
from tests.system.wire import Load, wait_for

# The blocks that these parts type, by page and heading.
TYPED = [("deployment.md", "3. Containers")]
COMPOSE = "docker compose -f deploy/docker/docker-compose.yml"
LOG = "/var/log/tracker/visits.log"
UNPRIVILEGED = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
CREDENTIALS = (
    "-e AWS_ACCESS_KEY_ID=rehearsal -e AWS_SECRET_ACCESS_KEY=rehearsal -e AWS_ENDPOINT_URL=http://127.0.0.1:4566"
)


def prepare(base: Path) -> None:
    find_programs()
    debian(base)
    wheels(base, Path(sys.executable))


def prepare_compose(base: Path) -> None:
    prepare(base)
    localstack(base)


def _build(engine: Engine, base: Path, say: Callable[[str], None]) -> str:
    """Type the guide's first command, and return its second."""
    build, up = guide("deployment.md", "3. Containers")
    engine.import_base(base)
    command = build.text.replace("docker build ", f"docker build --build-arg BASE={BASE} ")
    assert command != build.text, f"{build} does not build"
    say(f"the commands of {build}, with the base replaced")
    engine.type(command)
    return up.text


def rehearse(base: Path, home: Path, say: Callable[[str], None]) -> None:
    """Raises AssertionError if anything is not as the guide says. `home` is an empty folder."""
    sources(home / "tracker")
    broker = Launched([sys.executable, "-m", "tracker.local", "broker"], output_file=home / "broker.log", home=home)
    with broker, Engine(home, home / "tracker") as engine:
        broker.wait_alive(lambda: "ready " in broker.output, "the broker starts")
        _build(engine, base, say)
        for service, folder in (("pixel", "/var/lib/tracker/outbox"), ("storage", "/var/log/tracker")):
            config = home / f"tracker/deploy/systemd/{service}.yaml"
            engine.type(
                f"docker run --detach --name {service} --network host {UNPRIVILEGED} {CREDENTIALS} "
                f"--volume {config}:/etc/tracker/{service}.yaml:ro --volume {service}:{folder} "
                f"tracker tracker-{service} --config /etc/tracker/{service}.yaml"
            )
        packages = engine.type("docker exec pixel sh -c 'ls /opt/tracker/lib/python3*/site-packages'").split()
        assert not {"pip", "setuptools", "moto", "pytest"} & set(packages), packages
        say("both services run from the image, read-only and without capabilities")
        with Load(8080, pause=0.01) as visitors:
            visitors.wait_answered(500)
            engine.type("docker kill --signal KILL pixel storage && docker start pixel storage")
            visitors.wait_answered(500)
            say("both are killed and started again")
            engine.type("docker stop --time 30 pixel && docker start pixel")
            visitors.wait_answered(500)
        _account(lambda: engine.type(f"docker exec storage cat {LOG}"), visitors, say)
        engine.type("docker stop --time 30 pixel storage")
        statuses = engine.type("docker inspect --format '{{.State.ExitCode}}' pixel storage").split()
        assert statuses == ["0", "0"], f"a clean stop has status 0, not {statuses}"


def rehearse_compose(base: Path, home: Path, say: Callable[[str], None]) -> None:
    """Raises AssertionError if anything is not as the guide says. `home` is an empty folder."""
    sources(home / "tracker")
    python = localstack(base)
    prefix = python.resolve().parents[1]  # of the Python that the environment was made with
    (home / "localstack.yml").write_text(
        "services:\n"
        "  localstack:\n"
        f"    image: {BASE}\n"
        "    pull_policy: never\n"
        f"    command: ['{python}', -m, localstack.runtime.main]\n"
        "    environment: {GATEWAY_LISTEN: '0.0.0.0:4566', DISABLE_EVENTS: '1', SKIP_SSL_CERT_DOWNLOAD: '1'}\n"
        f"    volumes: ['{base}/localstack:{base}/localstack', '{prefix}:{prefix}:ro']\n"
        "  provision: {pull_policy: never}\n"
        "  archive: {profiles: [left-out]}\n"
    )
    compose = f"{COMPOSE} -f {home}/localstack.yml"
    with Engine(home, home / "tracker") as engine:
        up = _build(engine, base, say)
        assert f"{COMPOSE} up --build" in up, f"the guide has another command: {up}"
        try:
            say("the composition, with LocalStack from PyPI in place of its image, and the image that was built")
            engine.type(up.replace(COMPOSE, compose).replace("up --build", "up --detach --no-build"))
            _until_ready(engine, compose)
            with Load(8080, pause=0.01) as visitors:
                visitors.wait_answered(500)
                engine.type(f"{compose} kill pixel storage && {compose} start pixel storage")
                visitors.wait_answered(500)
            say("both are killed and started again")
            _account(lambda: engine.type(f"{compose} exec -T storage cat {LOG}"), visitors, say)
            doctor = "tracker doctor --storage /etc/tracker/storage.yaml"
            engine.type(f"{compose} exec -T -e TRACKER_ARCHIVE__URL=null storage {doctor}")
            say("the doctor finds no fault")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{engine.type(f'{compose} logs --tail 40')}") from error
        finally:
            engine.status(f"{compose} down --volumes --timeout 5")


def _until_ready(engine: Engine, compose: str) -> None:
    for service, port in (("pixel", 8081), ("storage", 8082)):
        ask = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/readyz')"
        probe = f'{compose} exec -T {service} python -c "{ask}"'
        wait_for(lambda probe=probe: engine.status(probe) == 0, f"{service} is ready", 120, 1)  # type: ignore[misc]


def _account(read_log: Callable[[], str], visitors: Load, say: Callable[[str], None]) -> None:
    """Compare the visits that were answered with the lines of the log. Raises AssertionError."""

    def lines() -> Counter[str]:
        return Counter(line.split("|")[1] for line in read_log().splitlines() if "|load|" in line)

    wait_for(lambda: visitors.answered <= set(lines()), "every answered visit is in the log", 120, 1)
    twice = [page for page, times in lines().items() if times > 1]
    assert not twice, f"{len(twice)} visits are in the log more than once: {twice[:5]}"
    say(f"{len(visitors.answered):,} visits were answered: each is in the log once, none is missing")
