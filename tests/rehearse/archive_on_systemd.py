"""The archive of the guide on a machine with systemd, and what can happen to it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.guides import Block, guide
from tests.launched import ROOT
from tests.rehearse.archive import Bucket
from tests.rehearse.machine import Machine
from tests.system.wire import wait_for
from tracker.visit_log_files import archived_directory, closed_logs, closed_name, logs_of_logrotate

UNIT = "tracker-archive.service"
TIMER = "tracker-archive.timer"
ROTATED_AT = "40kB"  # a second of the visitors
KEPT = 3  # closed logs by log.rotate.keep
# What the sandbox of the unit must refuse.
FORBIDDEN = [
    "echo forged >> /var/log/tracker/visits.log",
    "echo forged >> /var/log/tracker/visits.log.d/ledger.sqlite",
    "touch /var/log/tracker/visits.log.d/new",
    "cat /etc/tracker/storage.env",
    "cat /etc/tracker/pixel.env",
    "echo >> /etc/tracker/storage.yaml",
    "touch /var/lib/tracker/outbox/new",
]
# What it refuses too, unless the archiver may remove closed logs.
REMOVALS = ["touch /var/log/tracker/new", "mv /var/log/tracker/visits.log /var/log/tracker/moved"]


class ArchiveStory:
    """Each step raises AssertionError if it does not go as the guide says.

    `log` is the machine's visit log as a path of the host. `paste` types a block of the guide.
    """

    def __init__(self, machine: Machine, log: Path, bucket: Bucket, paste: Callable[[Block], None]) -> None:
        self._machine = machine
        self._log = log
        self._bucket = bucket
        self._paste = paste
        self._install, self._begin, self._follow, self._keep_local = guide("archive.md", "With systemd")

    def install(self, region: str, credentials: str) -> None:
        self._bucket.make()
        self._paste(self._install)
        self._machine.type(
            f"echo '{credentials}' > /etc/tracker/archive.env\n"
            f"echo 'archive: {{url: s3://{self._bucket.name}/visits, region: {region}}}' >> /etc/tracker/storage.yaml"
        )
        self._paste(self._begin)

    def while_logrotate_rotates(self) -> Iterator[str]:
        self._machine.hurry(TIMER)
        self._machine.until(
            lambda: self._archived() and not self._waiting(), "the timer archives what logrotate closed"
        )
        self._machine.type(f"systemctl stop {TIMER} tracker-storage\nsystemctl start {UNIT}")
        self._machine.type(f"systemctl start tracker-storage {TIMER}")
        yield "the archive by its timer, and while storage is stopped"
        assert self._machine.type("tracker-as archive id -un").strip() == "tracker-archive"
        self._trespass([*FORBIDDEN, *REMOVALS])
        yield "the sandbox of the archiver"

    def while_storage_rotates(self) -> Iterator[str]:
        rotate = f"{{max_bytes: {ROTATED_AT}, compress: gzip, keep: {KEPT}}}"
        self._machine.type(
            f"systemctl stop {TIMER} && rm /etc/logrotate.d/tracker\n"
            f"sed -i 's|^  path: .*|&\\n  rotate: {rotate}|' /etc/tracker/storage.yaml\n"
            "systemctl restart tracker-storage"
        )
        self._machine.until(self._killed_in_a_pass, "a pass is killed")
        self._machine.type(f"systemctl reset-failed {UNIT} && systemctl start {UNIT} {TIMER}")
        self._machine.until(lambda: len(self._closed()) <= KEPT + 1, "log.rotate.keep removes what is archived")
        yield "SIGKILL of the archiver, between one closed log of storage and the next"

    def after_a_reboot(self) -> Iterator[str]:
        self._machine.type(f"systemctl is-active {TIMER}")
        self._machine.as_installed(TIMER)
        self._paste(self._follow)
        self._machine.type("sed -i 's|^archive: {|&keep_local: 1s, |' /etc/tracker/storage.yaml")
        self._paste(self._keep_local)
        self._trespass(FORBIDDEN)
        yield "the archiver runs all the time, and may remove closed logs"
        self._machine.override(UNIT, "[Service]\nEnvironment=TRACKER_ARCHIVE__URL=s3://no-such-bucket/visits\n")
        self._machine.type(f"systemctl restart {UNIT}")
        self._machine.until(lambda: len(self._waiting()) > KEPT + 1, "closed logs stay while they cannot be archived")
        self._machine.until(lambda: self._alarm_metric() > 1, "the alarm's metric grows")
        assert self._machine.status("curl -fsS http://127.0.0.1:8083/readyz") != 0
        waiting = self._waiting()
        self._machine.as_installed(UNIT)
        self._machine.type(f"systemctl restart {UNIT}")
        self._machine.until(lambda: not waiting & self._closed(), "archive.keep_local removes them")
        assert waiting <= self._archived(), f"removed and not archived: {waiting - self._archived()}"
        assert self._machine.logged(UNIT, "closed_log_removed")
        yield "no bucket for a while: no closed log was removed before it was archived"

    def _killed_in_a_pass(self) -> bool:
        """Kill a pass when it has archived one of several closed logs. False if it was too fast."""
        self._machine.until(lambda: len(self._waiting()) > 2 * KEPT, "closed logs wait, and storage keeps them")
        before = self._archived()
        self._machine.type(f"systemctl start --no-block {UNIT}")
        wait_for(lambda: self._archived() > before, "the pass has archived a log", 60, 0.01)
        self._machine.type(f"systemctl kill --signal=KILL {UNIT}")
        self._machine.until(lambda: self._machine.show(UNIT, "ActiveState") in {"failed", "inactive"}, "the pass ends")
        return self._machine.show(UNIT, "Result") == "signal" and bool(self._waiting())

    def _trespass(self, commands: list[str]) -> None:
        """Try in the place of the archiver what must be refused, and what it needs."""
        script = (
            "set -eu\ntest -r /var/log/tracker/visits.log\n"
            "touch /var/log/tracker/visits.log.d/archived/new && rm /var/log/tracker/visits.log.d/archived/new\n"
            "while read -r command; do\n"
            '    if sh -c "$command"; then echo "allowed: $command"; exit 1; fi\n'
            "done <<'END'\n" + "\n".join(commands) + "\nEND\n"
        )
        (self._machine.tree / "srv/trespass.sh").write_text(script)
        self._machine.override(
            UNIT, "[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/bin/sh /srv/trespass.sh\n"
        )
        done = self._machine.run(f"systemctl restart {UNIT} || ! journalctl -q --no-pager -n 20 -u {UNIT}")
        assert done.returncode == 0, done.stdout
        self._machine.as_installed(UNIT)

    def _closed(self) -> set[str]:
        """The closed logs on the disk, without `.gz`."""
        return {closed_name(file) for file in (*closed_logs(self._log), *logs_of_logrotate(self._log))}

    def _archived(self) -> set[str]:
        return {marker.name for marker in archived_directory(self._log).iterdir()}

    def _waiting(self) -> set[str]:
        return self._closed() - self._archived()

    def _alarm_metric(self) -> float:
        """What the alarm's expression asks for; 0 while the archiver starts."""
        rules = (ROOT / "deploy/prometheus/tracker.rules.yml").read_text()
        name = re.search(r"alert: TrackerArchiveBehind\n\s+expr: \|\n\s+(\w+) >", rules)
        assert name is not None
        asked = self._machine.run(f"curl -fsS http://127.0.0.1:8083/metrics | grep '^{name[1]} '")
        return float(asked.stdout.rpartition(" ")[2]) if asked.returncode == 0 else 0.0
