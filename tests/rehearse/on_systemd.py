"""The deployment guide on a machine whose process 1 is systemd, and then what can happen to it.

1. The guide's commands install everything, make topic and queues at the local broker, and start both services.
2. Visitors come all the time. Meanwhile: the doctor, reloads, SIGKILL of everything, a worker that hangs, logrotate by
   its timer, then the rotation of storage, a full disk, a reboot, and the commands of the operations guide. The archive
   goes on beside it: by its timer, in its sandbox, killed, without its bucket, all the time, removing closed logs.
3. Every visit that was answered is once in a log or in the archive.
"""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.guides import Block, guide
from tests.launched import Launched
from tests.rehearse.archive import PRINT_LOGS, Bucket, account
from tests.rehearse.archive_on_systemd import ArchiveStory
from tests.rehearse.machine import Machine
from tests.rehearse.prepared import debian, program, run, sources, wheels
from tests.system.wire import Load

BROKER = "http://127.0.0.1:4566"
REGION = "eu-central-1"  # that of the guide's commands
LOG_DISK_MEBIBYTES = 32
# The blocks that this part types, by page and heading.
TYPED = [
    ("deployment.md", "Before you begin: the commands"),
    ("deployment.md", "1. AWS"),
    ("deployment.md", "2. Linux with systemd"),
    ("deployment.md", "Reports on the server"),
    ("deployment.md", "Rotation"),
    ("archive.md", "With systemd"),
    ("deployment.md", "6. See that it works"),
    ("operations.md", "Operations"),
    ("operations.md", "Changing things without losing a visit"),
]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "rehearsal", "AWS_SECRET_ACCESS_KEY": "rehearsal", "AWS_ENDPOINT_URL": BROKER}
CREDENTIAL_LINES = "\n".join(f"{name}={value}" for name, value in CREDENTIALS.items())


def prepare(base: Path) -> None:
    program("systemd-nspawn", "systemd-container")
    debian(base)
    wheels(base, Path(sys.executable))


def rehearse(base: Path, home: Path, say: Callable[[str], None]) -> None:
    """Raises AssertionError if anything is not as the guides say. `home` is an empty folder."""
    tree = home / "tree"
    run("cp", "-a", base / "debian", tree)
    sources(tree / "srv/tracker")
    shutil.copytree(base / "wheels", tree / "wheels")
    log_disk = tree / "var/log/tracker"
    log_disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={LOG_DISK_MEBIBYTES}m,mode=0750", "rehearsal", log_disk)
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "PIP_ROOT_USER_ACTION": "ignore"}
    with ExitStack() as stack:
        broker = Launched([sys.executable, "-m", "tracker.local", "broker"], output_file=home / "broker.log", home=home)
        stack.enter_context(broker)
        broker.wait_alive(lambda: "ready " in broker.output, "the broker starts")
        machine = Machine(tree, home=home, environment={**environment, **CREDENTIALS}, directory="/srv/tracker")
        stack.callback(machine.power_off)
        bucket = Bucket(BROKER, REGION, "my-tracker-archive")
        story = Story(machine, log_disk, bucket, say)
        try:
            story.install()
            with Load(8080, pause=0.01) as visitors:
                for step in story.steps():
                    visitors.wait_answered(200)
                    say(step)
            account(visitors.answered, bucket.pages, lambda: machine.type(PRINT_LOGS), say)
        except AssertionError as error:
            units = machine.run("journalctl -q --no-pager -n 80 -u 'tracker-*'").stdout
            raise AssertionError(f"{error}\nThe last lines of the services:\n{units}") from error


class Story:
    """What happens to the machine. Each step raises AssertionError if it does not go as the guides say."""

    def __init__(self, machine: Machine, log_folder: Path, bucket: Bucket, say: Callable[[str], None]) -> None:
        self._machine = machine
        self._logs = log_folder
        self._say = say
        self._archive = ArchiveStory(machine, log_folder / "visits.log", bucket, self._paste)

    def type(self, page: str, heading: str) -> None:
        """Paste the blocks of a guide, one after the other."""
        for block in guide(page, heading):
            if block.mark == "rehearsed":
                self._paste(block)
                self._after(block.heading)

    def _paste(self, block: Block) -> None:
        self._say(f"the commands of {block}")
        self._machine.type(block.text)

    def install(self) -> None:
        self.type("deployment.md", "Before you begin: the commands")
        dry, real = (
            line
            for block in guide("deployment.md", "1. AWS")
            for line in block.text.splitlines()
            if "provision" in line
        )
        self._say("the commands of provision")
        self._machine.type(dry, expected=1)
        self._machine.type(real)
        self._machine.type(dry)
        self.type("deployment.md", "2. Linux with systemd")
        self.type("deployment.md", "Reports on the server")
        self.type("deployment.md", "Rotation")
        self._archive.install(REGION, CREDENTIAL_LINES)

    def _after(self, heading: str) -> None:
        """What the guide asks the person to write into the files, between two blocks."""
        if heading != "2. Linux with systemd":
            return
        for service in ("pixel", "storage"):
            self._machine.type(f"echo '{CREDENTIAL_LINES}' > /etc/tracker/{service}.env")
        self._machine.type(f"sed -i s/us-east-1/{REGION}/ /etc/tracker/pixel.yaml /etc/tracker/storage.yaml")

    def steps(self) -> Iterator[str]:
        """Each step happens while visitors come; its name is given when it is over."""
        as_storage = self._machine.type("tracker-as storage sh -c 'id -un; pwd; echo $AWS_ACCESS_KEY_ID; exit 5'", 5)
        on_a_terminal = "script --quiet --return --command 'tracker-as storage tty' /dev/null"
        # More than once: on a busy machine the terminal is sometimes closed before it was read.
        self._machine.until(lambda: "/dev/pts/" in self._machine.type(on_a_terminal), "tracker-as has a terminal")
        assert as_storage.split() == ["tracker", "/var/log/tracker", "rehearsal"], as_storage
        self.type("deployment.md", "6. See that it works")
        self.type("operations.md", "Operations")
        yield "the doctor finds no fault"
        self._reload()
        yield "a reload, and one of a configuration with a mistake"
        self._kill_everything()
        yield "SIGKILL of everything"
        self._hang_a_worker()
        yield "a worker that hangs is replaced"
        self._rotate_by_the_timer()
        yield "logrotate by its timer"
        yield from self._archive.while_logrotate_rotates()
        yield from self._archive.while_storage_rotates()
        self._fill_the_disk()
        yield "a full disk below the log"
        self._install_again()
        yield "an upgrade, by the same commands"
        self._machine.reboot()
        yield "a reboot"
        yield from self._archive.after_a_reboot()
        self.type("operations.md", "Changing things without losing a visit")
        yield "the commands of the operations guide"
        self.type("deployment.md", "6. See that it works")
        yield "the doctor still finds no fault"

    def _reload(self) -> None:
        self._machine.type("test ! -e /bin/kill")  # a minimal system
        self._machine.type("echo 'logging: {level: info}' >> /etc/tracker/pixel.yaml && systemctl reload tracker-pixel")
        self._await_log("reload_applied")
        self._machine.type("cp /etc/tracker/pixel.yaml /srv/good && echo 'nonsense: 1' >> /etc/tracker/pixel.yaml")
        self._machine.type("systemctl reload tracker-pixel", expected=1)
        self._machine.type("systemctl is-active tracker-pixel && cp /srv/good /etc/tracker/pixel.yaml")
        self._machine.type("systemctl reload tracker-pixel tracker-storage")

    def _kill_everything(self) -> None:
        self._machine.type("systemctl kill --signal=KILL tracker-pixel tracker-storage")
        self._await_active()

    def _hang_a_worker(self) -> None:
        main = "$(systemctl show --property=MainPID --value tracker-pixel)"
        worker = self._machine.type(f"set -- $(cat /proc/{main}/task/*/children); echo $1").strip()
        self._machine.type(f"kill -{int(signal.SIGSTOP)} {worker}")
        self._await_log("worker_killed")

    def _rotate_by_the_timer(self) -> None:
        self._machine.type(
            "mkdir -p /var/lib/logrotate\n"
            r"""printf 'logrotate state -- version 2\n"/var/log/tracker/visits.log" 2020-1-1-0:0:0\n'"""
            " > /var/lib/logrotate/status"
        )
        self._machine.hurry("logrotate.timer")
        self._machine.until(lambda: len(list(self._logs.glob("visits.log-*"))) == 1, "logrotate puts the log aside")
        self._machine.as_installed("logrotate.timer")
        self._machine.type("systemctl restart logrotate.timer")
        self._machine.until(lambda: (self._logs / "visits.log").stat().st_size > 0, "storage goes on in the new log")

    def _install_again(self) -> None:
        """What the person has written into the files must stay."""
        files = "/etc/tracker/pixel.env /etc/tracker/storage.env /etc/tracker/pixel.yaml /etc/tracker/storage.yaml"
        before = self._machine.type(f"sha256sum {files}")
        self.type("deployment.md", "Before you begin: the commands")
        self._machine.type(guide("deployment.md", "2. Linux with systemd")[0].text)
        assert self._machine.type(f"sha256sum {files}") == before
        self._machine.type("systemctl restart tracker-storage tracker-pixel")

    def _fill_the_disk(self) -> None:
        filler = self._logs / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass
        self._await_log("append_paused")
        assert self._machine.status("curl -fsS http://127.0.0.1:8082/readyz") != 0
        filler.unlink()
        self._await_active()

    def _await_log(self, event: str) -> None:
        self._machine.until(lambda: self._machine.logged("tracker-*", event), event)

    def _await_active(self) -> None:
        ports = ("8081", "8082")
        probes = " && ".join(f"curl -fsS http://127.0.0.1:{port}/readyz" for port in ports)
        self._machine.until(lambda: self._machine.status(probes) == 0, "both services are ready")
