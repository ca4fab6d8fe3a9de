"""What both services refuse: links in the place of files, network file systems, directories that refuse fsync."""

import asyncio
import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.processes import Process, write_config
from tracker.config import LogConfig, SqsConfig, StorageConfig
from tracker.errors import ConfigurationError, HeldByAnother
from tracker.files import mount_of, refuse_network_file_system, room_for, sync_directory, take_lock
from tracker.pixel.outbox import Outbox
from tracker.storage.service import serve

ARN = "arn:aws:sns:us-east-1:000000000000:tracking"


def ended(module: str, config: Path, folder: Path) -> tuple[int, str]:
    process = Process(module, "--config", str(config), home=folder, name=module)
    try:
        return process.wait(), process.output
    finally:
        process.destroy()


def test_a_visit_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.log"
    elsewhere.touch()
    (tmp_path / "visits.log").symlink_to(elsewhere)
    config = write_config(
        tmp_path / "storage.yaml", {"sqs": {"queue": "visits", "region": "us-east-1"}, "log": {"path": "visits.log"}}
    )
    status, said = ended("tracker.storage", config, tmp_path)
    assert status == 78
    assert "log.path" in said
    assert str(elsewhere) in said
    assert elsewhere.stat().st_size == 0


@pytest.mark.parametrize("victim", ["outbox/publisher.lock", "visits.log.d/lock"])
def test_a_link_in_the_place_of_a_lock_is_refused_and_its_target_untouched(tmp_path: Path, victim: str) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / victim
    link.parent.mkdir()
    link.symlink_to(target)
    if victim.startswith("outbox"):
        module, document = "tracker.pixel", {"sns": {"topic_arn": ARN}, "outbox": {"dir": "outbox"}}
    else:
        module = "tracker.storage"
        document = {"sqs": {"queue": "visits", "region": "us-east-1"}, "log": {"path": "visits.log"}}
    status, said = ended(module, write_config(tmp_path / "config.yaml", document), tmp_path)
    assert status == 78, said
    assert target.read_text() == "precious"


def open_storage(folder: Path) -> None:
    config = StorageConfig(sqs=SqsConfig(queue="visits"), log=LogConfig(path=str(folder / "visits.log")))
    asyncio.run(serve(config, accept_log=False))


OPENED: list[tuple[str, Callable[[Path], None]]] = [
    ("outbox.dir", lambda folder: Outbox(folder).open()),
    ("log.path", open_storage),
]


@pytest.mark.skipif(sys.platform != "linux", reason="mountinfo is Linux's")
@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "ceph"])
@pytest.mark.parametrize(("key", "opened"), OPENED, ids=["pixel", "storage"])
def test_a_directory_on_a_network_file_system_is_refused_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, opened: Callable[[Path], None], kind: str
) -> None:
    mounts = f"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / {tmp_path} rw - {kind} server:/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **options: mounts)
    with pytest.raises(ConfigurationError, match=rf"{key}: expected a directory on a local file system, .* on {kind}"):
        opened(tmp_path)
    with pytest.raises(ConfigurationError, match=key):
        opened(tmp_path / "not" / "there yet")


@pytest.mark.skipif(sys.platform != "linux", reason="mountinfo is Linux's")
def test_the_mount_that_holds_the_directory_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, local = tmp_path / "shared disk é", tmp_path / "shared disk é" / "local"
    escaped = str(shared).replace(" ", "\\040")
    mounts = (
        "1 0 0:1 / / rw - ext4 /dev/x rw\n"
        f"2 1 0:2 / {escaped} rw - nfs4 server:/x rw\n"
        f"3 2 0:3 / {escaped}/local rw shared:7 - xfs /dev/y rw\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **options: mounts)
    for directory in (tmp_path, local, local / "deeper", tmp_path / "shared disk éé"):
        refuse_network_file_system(directory, "key")
    for directory in (shared, shared / "locally"):
        with pytest.raises(ConfigurationError, match="nfs4"):
            refuse_network_file_system(directory, "key")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(("key", "opened"), OPENED, ids=["pixel", "storage"])
def test_a_directory_that_refuses_fsync_is_a_configuration_error_that_says_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    opened: Callable[[Path], None],
    exists: bool,
    number: int,
) -> None:
    real = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    folder = tmp_path / "folder"
    if exists:
        (folder / "visits.log.d").mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ConfigurationError, match=f"{key}: .*fsync of a directory is refused.*ext4 or XFS"):
        opened(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_real_file_system_without_fsync_of_directories_is_said_by_name() -> None:
    with pytest.raises(OSError, match=r"fsync of a directory is refused.*/proc"):
        sync_directory(Path("/proc"))


def test_a_lock_names_its_holder_and_is_free_once_its_descriptor_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = take_lock(path, "a directory of its own is needed")
    with pytest.raises(
        HeldByAnother, match=rf"a directory of its own is needed: process {os.getpid()} holds .*lock"
    ) as error:
        take_lock(path, "a directory of its own is needed")
    assert isinstance(error.value.__cause__, BlockingIOError)
    os.close(held)
    os.close(take_lock(path, "a directory of its own is needed"))


def test_an_error_says_whether_the_disk_is_full_and_where(tmp_path: Path) -> None:
    mount_point, kind = mount_of(tmp_path)
    where = f"bytes are free on {mount_point} ({kind})" if mount_point else f"bytes are free on the disk of {tmp_path}"
    assert room_for(tmp_path, 1 << 62).startswith(": the disk is full, ")
    assert room_for(tmp_path, 1 << 62).endswith(where)
    assert room_for(tmp_path, 0).startswith(": the disk is not full: look for a quota or a limit of file sizes, ")
    assert room_for(tmp_path / "nowhere", 0) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists its mounts in /proc")
def test_the_innermost_mount_of_a_path_is_found() -> None:
    assert mount_of(Path("/proc/self")) == ("/proc", "proc")
    assert mount_of(Path("/proc-of-somebody-else"))[0] == "/"
