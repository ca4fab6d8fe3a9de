"""A machine of its own: systemd as process 1 in a container of systemd-nspawn, on a tree of Debian.

It shares the network namespace of the rehearsal, which has nothing but a loopback, so the broker and the visitors need
no other address. Commands enter it by nsenter, because a minimal system has neither SSH nor a login.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.launched import Launched
from tests.rehearse.prepared import program
from tests.system.wire import wait_for

BOOT_SECONDS = 120.0
ASKED_TO_REBOOT = 133  # how systemd-nspawn ends with --keep-unit when the machine reboots


class Machine:
    """Boots `tree`. `environment` is that of the person who types the commands, in `directory`."""

    def __init__(self, tree: Path, *, home: Path, environment: dict[str, str], directory: str) -> None:
        self.tree = tree
        self._environment = [f"{name}={value}" for name, value in environment.items()]
        self._directory = directory
        self._home = home
        self._boot()

    def _boot(self) -> None:
        # --register=no --keep-unit: the host need not have a systemd of its own.
        command = [
            program("systemd-nspawn", "systemd-container"),
            *("-D", str(self.tree), "--register=no", "--keep-unit", "-b"),
        ]
        self._nspawn = Launched(command, output_file=self._home / "machine.log", home=self._home)

        def booted() -> bool:
            self._nspawn.check_running()
            return self.status("systemctl is-system-running | grep -Eqx 'running|degraded'") == 0

        wait_for(booted, lambda: f"the machine boots\n{self._nspawn.output[-5000:]}", BOOT_SECONDS, 0.5)

    def _process_1(self) -> int | None:
        """The machine's process 1 as a process of the host."""
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        for child in children:
            try:
                status = Path(f"/proc/{child}/status").read_text()
            except FileNotFoundError:
                continue
            if status.partition("NSpid:")[2].splitlines()[0].split()[-1] == "1":
                return int(child)
        return None

    def _command(self, script: str) -> list[str]:
        inside = [program("nsenter", "util-linux"), "-t", str(self._process_1()), "-m", "-u", "-i", "-p"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["/usr/bin/env", "-i", path, "HOME=/root", *self._environment]
        return [*inside, *clean, "/bin/bash", "-euo", "pipefail", "-c", f"cd {self._directory}\n{script}"]

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a script as if a person had pasted it, whatever comes of it."""
        return subprocess.run(
            self._command(script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def status(self, script: str) -> int:
        return self.run(script).returncode

    def type(self, script: str, expected: int = 0) -> str:
        """What a script prints. Raises AssertionError if its status is not `expected`."""
        done = self.run(script)
        assert done.returncode == expected, f"status {done.returncode}, expected {expected}:\n{script}\n{done.stdout}"
        return done.stdout

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Wait until the condition holds. Raises AssertionError if it never does."""
        wait_for(condition, what, seconds, 0.5)

    def show(self, unit: str, name: str) -> str:
        return self.type(f"systemctl show --property={name} --value {unit}").strip()

    def logged(self, units: str, event: str) -> bool:
        """Whether the journal has a line with this event. `units` may be a pattern."""
        # grep -c reads all of it. grep -q ends early, and then the broken pipe is the status.
        return self.status(f"journalctl -q --no-pager -u '{units}' | grep -c {event}") == 0

    def override(self, unit: str, settings: str) -> None:
        """Change a unit by a drop-in. The next start has the settings."""
        folder = f"/etc/systemd/system/{unit}.d"
        self.type(f"mkdir -p {folder}\ncat > {folder}/rehearsal.conf <<'END'\n{settings}END\nsystemctl daemon-reload")

    def as_installed(self, unit: str) -> None:
        """Undo `override`."""
        self.type(f"rm /etc/systemd/system/{unit}.d/rehearsal.conf\nsystemctl daemon-reload")

    def hurry(self, timer: str) -> None:
        """Let a timer elapse every three seconds; more often, systemd would refuse to start its unit."""
        often = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/3\nAccuracySec=1\nRandomizedDelaySec=0\n"
        self.override(timer, often)
        self.type(f"systemctl restart {timer}")

    def reboot(self) -> None:
        self.status("systemctl reboot")
        status = self._nspawn.wait(BOOT_SECONDS)
        assert status == ASKED_TO_REBOOT, f"the machine ended with {status}"
        self._boot()

    def power_off(self) -> None:
        self.status("systemctl poweroff --force")
        try:
            self._nspawn.wait()
        finally:
            self._nspawn.destroy()
