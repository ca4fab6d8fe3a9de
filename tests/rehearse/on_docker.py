"""The images of the guide, built and run without privileges; and the composition, with LocalStack from PyPI.

The images: their base is replaced (`--build-arg BASE=`), because no registry is asked. Both services and the archive
run from them with a read-only root, as no root, without capabilities, at the local broker. They are killed and started
again.

The composition: `up` as the guide has it, with a second file that replaces the image of LocalStack by LocalStack from
PyPI, and lets storage rotate more often. In both, every visit that was answered is once in a log or in the archive.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.guides import guide
from tests.launched import Launched
from tests.rehearse.archive import PRINT_LOGS, Bucket, account
from tests.rehearse.engine import BASE, Engine, find_programs
from tests.rehearse.prepared import debian, localstack, sources, wheels
from tests.system.wire import Load, wait_for

# The blocks that these parts type, by page and heading.
TYPED = [("deployment.md", "3. Containers"), ("archive.md", "In containers")]
COMPOSE = "docker compose -f deploy/docker/docker-compose.yml"
ENDPOINT = "http://127.0.0.1:4566"
SERVICES = "pixel storage archive"
ROTATED_AT = "20kB"  # some 250 visits
UNPRIVILEGED = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
CREDENTIALS = f"-e AWS_ACCESS_KEY_ID=rehearsal -e AWS_SECRET_ACCESS_KEY=rehearsal -e AWS_ENDPOINT_URL={ENDPOINT}"


def prepare(base: Path) -> None:
    find_programs()
    debian(base)
    wheels(base, Path(sys.executable))


def prepare_compose(base: Path) -> None:
    prepare(base)
    localstack(base)


def _build(engine: Engine, base: Path, say: Callable[[str], None]) -> str:
    """Build both images as the guides do, and return the command that starts the composition."""
    build, up = guide("deployment.md", "3. Containers")
    engine.import_base(base)
    for block in (build, *guide("archive.md", "In containers")):
        command = block.text.replace("docker build ", f"docker build --build-arg BASE={BASE} ")
        assert command != block.text, f"{block} does not build"
        say(f"the commands of {block}, with the base replaced")
        engine.type(command)
    return up.text


def rehearse(base: Path, home: Path, say: Callable[[str], None]) -> None:
    """Raises AssertionError if anything is not as the guide says. `home` is an empty folder."""
    sources(home / "tracker")
    broker = Launched([sys.executable, "-m", "tracker.local", "broker"], output_file=home / "broker.log", home=home)
    with broker, Engine(home, home / "tracker") as engine:
        broker.wait_alive(lambda: "ready " in broker.output, "the broker starts")
        _build(engine, base, say)
        bucket = Bucket(ENDPOINT, "eu-central-1", "my-tracker-archive")
        bucket.make()
        _run(engine, home, "pixel", "--volume outbox:/var/lib/tracker/outbox tracker tracker-pixel")
        logs = f"--volume logs:/var/log/tracker -e TRACKER_ARCHIVE__URL=s3://{bucket.name}/visits"
        _run(engine, home, "storage", f"{logs} -e TRACKER_LOG__ROTATE__MAX_BYTES={ROTATED_AT} tracker tracker-storage")
        follow = "tracker archive --follow --admin 127.0.0.1:8083"
        _run(engine, home, "archive", f"{logs} --user 10002:10001 tracker-archive {follow}")
        packages = engine.type("docker exec pixel sh -c 'ls /opt/tracker/lib/python3*/site-packages'").split()
        assert not {"pip", "setuptools", "moto", "pytest"} & set(packages), packages
        say("both services and the archive run from the images, read-only and without capabilities")
        with Load(8080, pause=0.01) as visitors:
            visitors.wait_answered(500)
            _confined(engine, "docker exec archive")
            engine.type(f"docker kill --signal KILL {SERVICES} && docker start {SERVICES}")
            visitors.wait_answered(500)
            say("all are killed and started again")
            engine.type("docker stop --time 30 pixel && docker start pixel")
            visitors.wait_answered(500)
        print_logs = f"docker exec -i storage sh <<'END'\n{PRINT_LOGS}END"
        account(visitors.answered, bucket.pages, lambda: engine.type(print_logs), say)
        engine.type(f"docker stop --time 30 {SERVICES}")
        statuses = engine.type(f"docker inspect --format '{{{{.State.ExitCode}}}}' {SERVICES}").split()
        assert statuses == ["0", "0", "0"], f"a clean stop has status 0, not {statuses}"


def _run(engine: Engine, home: Path, name: str, command: str) -> None:
    """Run a container at the broker. `command` begins with more options. The archive has storage's configuration."""
    service = "pixel" if name == "pixel" else "storage"
    config = home / f"tracker/deploy/systemd/{service}.yaml"
    engine.type(
        f"docker run --detach --name {name} --network host {UNPRIVILEGED} {CREDENTIALS} "
        f"--volume {config}:/etc/tracker/{service}.yaml:ro {command} --config /etc/tracker/{service}.yaml"
    )


def _confined(engine: Engine, run: str) -> None:
    """The archiver reads the log and cannot write it, nor anything else outside its folder. Raises AssertionError."""
    engine.type(f"{run} sh -c 'test -r /var/log/tracker/visits.log && test $(id -u) != 0'")
    for file in ("/var/log/tracker/visits.log", "/var/log/tracker/new", "/etc/new"):
        assert engine.status(f"{run} sh -c 'echo forged >> {file}'") != 0, f"the archiver may write {file}"


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
        f"    environment: {{GATEWAY_LISTEN: '0.0.0.0:4566', DISABLE_EVENTS: '1', SKIP_SSL_CERT_DOWNLOAD: '1', "
        f"PATH: '{python.parent}:/usr/bin:/bin'}}\n"
        f"    volumes: ['{base}/localstack:{base}/localstack', '{prefix}:{prefix}:ro']\n"
        "    ports: ['4566:4566']\n"
        "  provision: {pull_policy: never}\n"
        f"  storage: {{environment: {{TRACKER_LOG__ROTATE__MAX_BYTES: {ROTATED_AT}}}}}\n"
        "  archive: {pull_policy: never}\n"
    )
    compose = f"{COMPOSE} -f {home}/localstack.yml"
    with Engine(home, home / "tracker") as engine:
        up = _build(engine, base, say)
        assert f"{COMPOSE} up --build" in up, f"the guide has another command: {up}"
        try:
            say("the composition, with LocalStack from PyPI in place of its image, and the images that were built")
            engine.type(up.replace(COMPOSE, compose).replace("up --build", "up --detach --no-build"))
            _until_ready(engine, compose)
            with Load(8080, pause=0.01) as visitors:
                visitors.wait_answered(500)
                engine.type(f"{compose} kill {SERVICES} && {compose} start {SERVICES}")
                visitors.wait_answered(500)
            say("all are killed and started again")
            bucket = Bucket(ENDPOINT, "us-east-1", "tracker-archive")
            print_logs = f"{compose} exec -T storage sh <<'END'\n{PRINT_LOGS}END"
            account(visitors.answered, bucket.pages, lambda: engine.type(print_logs), say)
            _confined(engine, f"{compose} exec -T archive")
            engine.type(f"{compose} exec -T storage tracker doctor --storage /etc/tracker/storage.yaml")
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
