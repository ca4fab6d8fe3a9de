"""The manifests: rendered by Kustomize, right by Kubernetes' own schemas, and as the services need them."""

import ipaddress
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tracker.config import PixelConfig, StorageConfig, load_pixel, load_storage

from .tools import DEPLOY, run

MANIFESTS = DEPLOY / "kubernetes"
VERSIONS = ("1.30", "1.37")
DISABLED = "# components: [archive]\n"


@cache
def rendered(*, archive: bool = False) -> list[dict[str, Any]]:
    """The manifests, without or with the archive: the one comment of kustomization.yaml that enables it is removed."""
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(MANIFESTS, Path(folder) / "kubernetes"))
        if archive:
            kustomization = (copy / "kustomization.yaml").read_text()
            assert DISABLED in kustomization
            (copy / "kustomization.yaml").write_text(kustomization.replace(DISABLED, DISABLED.removeprefix("# ")))
        return [document for document in yaml.safe_load_all(run("kubectl", "kustomize", copy)) if document]


def named(kind: str, name: str, *, archive: bool = False) -> dict[str, Any]:
    [found] = [one for one in rendered(archive=archive) if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("archive", "count"), [(False, 15), (True, 17)])
def test_every_manifest_is_as_kubernetes_defines_it(version: str, archive: bool, count: int) -> None:
    assert len(rendered(archive=archive)) == count
    for manifest in rendered(archive=archive):
        if not archive or manifest not in rendered():
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("folder", [MANIFESTS, MANIFESTS / "archive"])
def test_every_file_is_part_of_it(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    generated = [file for one in kustomization["configMapGenerator"] for file in one.get("files", one.get("envs"))]
    patches = [patch["path"] for patch in kustomization.get("patches", ())]
    files = {path.name for path in folder.iterdir() if path.is_file()} - {"kustomization.yaml"}
    assert files == {*kustomization["resources"], *generated, *patches}


SERVICES = ["pixel", "storage"]


def config(service: str) -> PixelConfig | StorageConfig:
    path: Path = MANIFESTS / f"{service}.yaml"
    return load_pixel(path, {}) if service == "pixel" else load_storage(path, {})


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_outlives_its_shutdown_and_its_volume_outlives_the_pod(service: str) -> None:
    stateful = named("StatefulSet", f"tracker-{service}")["spec"]
    pod = stateful["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > config(service).shutdown.timeout
    assert stateful["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    [container] = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    [claim] = stateful["volumeClaimTemplates"]
    loaded = config(service)
    place = loaded.outbox.dir if isinstance(loaded, PixelConfig) else loaded.log.path
    assert place.startswith(mounts[claim["metadata"]["name"]])


@pytest.mark.parametrize(("service", "archive"), [("pixel", False), ("storage", False), ("storage", True)])
def test_a_pod_has_no_privileges(service: str, archive: bool) -> None:
    pod = named("StatefulSet", f"tracker-{service}", archive=archive)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        context = dict(container["securityContext"])
        assert context.pop("runAsUser", pod["securityContext"]["runAsUser"]) != 0
        assert context == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("service", SERVICES)
def test_probes_ask_the_admin_listener_which_only_prometheus_reaches_besides(service: str) -> None:
    [container] = named("StatefulSet", f"tracker-{service}")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    admin = config(service).admin
    assert (admin.host, admin.port) == ("*", ports["admin"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"  # failures of SNS or SQS must not restart it
    rules = named("NetworkPolicy", f"tracker-{service}")["spec"]["ingress"]
    open_to_all = [port["port"] for rule in rules if "from" not in rule for port in rule["ports"]]
    assert open_to_all == (["http"] if service == "pixel" else [])


def test_it_is_reached_by_each_ip_version_that_the_cluster_has() -> None:
    loaded = config("pixel")
    assert isinstance(loaded, PixelConfig)
    assert loaded.http.host == "*"
    services = [one["spec"] for one in rendered() if one["kind"] == "Service"]
    assert {service.get("ipFamilyPolicy") for service in services} == {"PreferDualStack"}


def called(address: str, port: int, protocol: str = "TCP") -> bool:
    """Whether the pods may call an address that is no pod's, by what NetworkPolicy says about `egress`."""
    spec = named("NetworkPolicy", "tracker-calls")["spec"]
    assert spec["podSelector"] == {}
    assert spec["policyTypes"] == ["Egress"]
    target = ipaddress.ip_address(address)
    return any(
        target in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        for rule in spec["egress"]
        if {"port": port, "protocol": protocol} in rule["ports"]
        for peer in rule["to"]
        if "ipBlock" in peer
    )


@pytest.mark.parametrize(
    ("address", "port", "protocol", "may"),
    [
        ("52.94.5.100", 443, "TCP", True),  # an endpoint of AWS
        ("10.0.3.7", 443, "TCP", True),  # a VPC endpoint
        ("2600:1f70::1", 443, "TCP", True),
        ("169.254.170.23", 80, "TCP", True),  # EKS Pod Identity
        ("fd00:ec2::23", 80, "TCP", True),
        ("169.254.169.254", 80, "TCP", True),  # the metadata of the instance
        ("fd00:ec2::254", 80, "TCP", True),
        ("169.254.20.10", 53, "UDP", True),  # NodeLocal DNSCache
        ("52.94.5.100", 80, "TCP", False),
        ("10.0.3.7", 22, "TCP", False),
        ("8.8.8.8", 53, "UDP", False),
        ("2600:1f70::1", 443, "UDP", False),
    ],
)
def test_pods_call_dns_aws_and_what_gives_credentials_and_nothing_else(
    address: str, port: int, protocol: str, may: bool
) -> None:
    assert called(address, port, protocol) == may


def test_pods_ask_the_dns_of_the_cluster() -> None:
    [dns] = [
        rule for rule in named("NetworkPolicy", "tracker-calls")["spec"]["egress"] if rule["ports"][0]["port"] == 53
    ]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}} in dns["to"]
    assert {port["protocol"] for port in dns["ports"]} == {"UDP", "TCP"}


def test_there_is_one_writer() -> None:
    assert named("StatefulSet", "tracker-storage")["spec"]["replicas"] == 1


def test_the_claim_of_an_outbox_holds_the_outbox() -> None:
    [claim] = named("StatefulSet", "tracker-pixel")["spec"]["volumeClaimTemplates"]
    loaded = config("pixel")
    assert isinstance(loaded, PixelConfig)
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert size.endswith("Gi")
    assert loaded.outbox.max_bytes < int(size.removesuffix("Gi")) << 30
    assert loaded.shutdown.drain_delay > 0
