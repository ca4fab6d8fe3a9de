"""The archive beside storage in Kubernetes: a container that can do its own work and cannot disturb storage's."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.archive.closed import close, line, rows
from tests.fake_aws.s3 import BUCKET, FakeS3
from tracker.config import StorageConfig, load_storage
from tracker.visit_log_files import archived_directory, archived_marker

from .test_kubernetes import MANIFESTS, named

ENVIRONMENT = dict(
    line.split("=", 1) for line in (MANIFESTS / "archive/archive.env").read_text().splitlines() if line[0] != "#"
)


def pod() -> dict[str, Any]:
    return dict(named("StatefulSet", "tracker-storage", archive=True)["spec"]["template"]["spec"])


def container(name: str) -> dict[str, Any]:
    [found] = [each for each in [*pod()["containers"], *pod()["initContainers"]] if each["name"] == name]
    return dict(found)


def config() -> StorageConfig:
    return load_storage(MANIFESTS / "storage.yaml", ENVIRONMENT)


def markers() -> str:
    return str(archived_directory(Path(config().log.path)))


def test_storage_and_the_archive_have_the_same_settings_by_which_logs_close_and_stay_until_archived() -> None:
    generated = named("ConfigMap", container("archive")["envFrom"][0]["configMapRef"]["name"], archive=True)
    assert generated["data"] == ENVIRONMENT
    assert container("storage")["envFrom"] == container("archive")["envFrom"]
    log, archive = config().log, config().archive
    assert archive.url is not None
    assert log.rotate.every == "hour"
    # The archive cannot remove a log, because it may not write to the folder. Storage can.
    assert archive.keep_local is None
    assert log.rotate.keep is not None


def test_storage_is_as_it_is_without_the_archive_but_for_these_settings() -> None:
    [alone] = named("StatefulSet", "tracker-storage")["spec"]["template"]["spec"]["containers"]
    beside = container("storage")
    beside.pop("envFrom")
    assert beside == alone


def test_the_archive_has_a_user_a_role_and_an_image_of_its_own_and_reads_as_the_group() -> None:
    context = container("archive")["securityContext"]
    assert context["runAsUser"] not in (0, pod()["securityContext"]["runAsUser"])
    assert "runAsGroup" not in context
    assert pod()["securityContext"]["runAsGroup"] == pod()["securityContext"]["fsGroup"]
    assert container("archive")["image"].partition(":")[0].endswith("/tracker-archive")
    variables = {each["name"]: each["value"] for each in container("archive")["env"]}
    account = named("ServiceAccount", "tracker-storage", archive=True)["metadata"]["annotations"]
    assert variables["AWS_ROLE_ARN"] not in account.values()
    # Where the webhook of EKS mounts the token. It sets none of the two variables when one of them is set.
    assert variables["AWS_WEB_IDENTITY_TOKEN_FILE"] == "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"


def test_the_archive_writes_to_its_markers_and_its_temporary_folder_only() -> None:
    mounts = {mount["mountPath"]: mount for mount in container("archive")["volumeMounts"]}
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {markers(), "/tmp"}
    assert mounts[markers()]["name"] == mounts[str(Path(config().log.path).parent)]["name"]
    [temporary] = [each for each in pod()["volumes"] if each["name"] == mounts["/tmp"]["name"]]
    size, log_bytes = temporary["emptyDir"]["sizeLimit"], config().log.rotate.max_bytes
    assert size.endswith("Gi")
    assert log_bytes is not None
    assert int(size.removesuffix("Gi")) << 30 > 2 * log_bytes  # when more is written, the pod is evicted, with storage


def test_a_failure_of_s3_neither_restarts_the_archive_nor_makes_storages_pod_unready() -> None:
    archive = container("archive")
    assert "readinessProbe" not in archive
    for probe in ("startupProbe", "livenessProbe"):
        assert archive[probe]["httpGet"] == {"path": "/healthz", "port": "archive"}


def test_prometheus_and_nobody_else_reaches_the_metrics_of_the_archive() -> None:
    archive = container("archive")
    [port] = archive["ports"]
    assert archive["command"][-2:] == ["--admin", f"*:{port['containerPort']}"]
    service = named("Service", "tracker-archive-pods", archive=True)
    assert service["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port["containerPort"]),
    }
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    [rule] = named("NetworkPolicy", "tracker-storage", archive=True)["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == ["admin", port["name"]]
    assert rule["from"]


def run_in(name: str, folder: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `command` with the user, the group and the mounts of a container. `folder` has volume and storage.yaml."""
    log = Path(config().log.path)
    steps = ["mount -t tmpfs -o mode=0755 none /var/log", f"mkdir {log.parent}"]
    for mount in container(name)["volumeMounts"]:
        if mount["name"] == "log":
            steps.append(f"mount --bind {folder}/volume/{mount.get('subPath', '')} {mount['mountPath']}")
            if mount.get("readOnly"):
                steps.append(f"mount -o remount,bind,ro {mount['mountPath']}")
    # The temporary folder is elsewhere, because this tree and its Python may be below /tmp.
    steps += ["mount -t tmpfs -o mode=1777 none /mnt", f"install -m 0644 {folder}/storage.yaml /mnt"]
    inherited = pod()["securityContext"]
    user = container(name)["securityContext"].get("runAsUser", inherited["runAsUser"])
    who = f"--reuid {user} --regid {inherited['runAsGroup']} --clear-groups --no-new-privs"
    steps.append(f'umask 022; exec setpriv {who} "$@"')
    return subprocess.run(
        ["unshare", "--mount", "sh", "-euc", "\n".join(steps), "sh", *command],
        env={"PATH": os.environ["PATH"], "TMPDIR": "/mnt", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_archive_works_with_its_user_and_its_mounts_and_cannot_change_a_log(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("not permitted: mounts need root")
    group, user = pod()["securityContext"]["fsGroup"], pod()["securityContext"]["runAsUser"]
    (tmp_path / "storage.yaml").write_text((MANIFESTS / "storage.yaml").read_text())
    live = tmp_path / "volume" / Path(config().log.path).name
    live.parent.mkdir()
    os.chown(live.parent, 0, group)
    live.parent.chmod(0o2775)  # as Kubernetes leaves a new volume for fsGroup
    for _ in range(2):  # at each start of a pod
        done = run_in("markers", tmp_path, *container("markers")["command"])
        assert done.returncode == 0, done.stderr
    live.write_bytes(line(2))
    closed = close(live, line(1))
    for file in (live, closed):
        os.chown(file, user, group)
        file.chmod(0o640)
    if run_in("archive", tmp_path, sys.executable, "-c", "import tracker").returncode != 0:
        pytest.skip("not permitted: another user cannot read this tree")
    with FakeS3() as s3:
        settings = {**ENVIRONMENT, "TRACKER_ARCHIVE__URL": f"s3://{BUCKET}/a", "TRACKER_ARCHIVE__ENDPOINT_URL": s3.url}
        command = [sys.executable, "-m", "tracker.cli", "archive", "--config", "/mnt/storage.yaml"]
        done = run_in("archive", tmp_path, *command, **settings)
        assert done.returncode == 0, done.stderr
        assert len(rows(s3.objects)) == 1
    assert archived_marker(live, closed).exists()
    log = config().log.path
    for change in (f"echo >> {log}", f"rm {log}", f"touch {log}.d/ledger.sqlite"):
        assert run_in("archive", tmp_path, "sh", "-c", change).returncode != 0
    assert live.read_bytes() == line(2)
    assert closed.read_bytes() == line(1)
