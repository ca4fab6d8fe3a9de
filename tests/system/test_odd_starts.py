"""The services as other people's tools start them: closed descriptors, early signals, a strange environment."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from .processes import Service
from .stack import FakeStack
from .wire import get, wait_for

ODD_ENVIRONMENT = {
    "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
    "prometheus_multiproc_dir": "/nowhere",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONOPTIMIZE": "2",
    "TMPDIR": "/nowhere",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
}
SECRETS = {
    "AWS_ACCESS_KEY_ID": "access-key",
    "AWS_SECRET_ACCESS_KEY": "secret-key",
    "AWS_SESSION_TOKEN": "session-token",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": "container-token",
    "TRACKER_LOGGING__LEVEL": "debug",
    "TRACKER_X": "other-secret",
    "DATABASE_PASSWORD": "password",
}


def works(stack: FakeStack, pixel: Service, storage: Service) -> None:
    """A visit becomes a line, the metrics answer, nothing was logged that looks like a fault, the stop is clean."""
    assert get(pixel.port, headers=[("Referer", "https://odd.example/")]).is_gif
    stack.wait_lines(1)
    pixel.wait_metric("tracker_pixel_hits", 1)
    storage.wait_metric("tracker_storage_visits_appended", 1)
    for service in (pixel, storage):
        service.stop()
        assert "Traceback" not in service.output
        assert not service.logged("died")


# Both services open what is closed by the same function (`start.prepare_service`).
@pytest.mark.parametrize(("pixels", "storages"), [("1>&-", "0<&-"), ("0<&- 1>&- 2>&-", "2>&-")])
def test_the_services_work_with_standard_descriptors_closed(stack: FakeStack, pixels: str, storages: str) -> None:
    pixel, storage = (("sh", "-c", f'exec "$@" {closed}', "sh") for closed in (pixels, storages))
    works(stack, stack.start_pixel(launcher=pixel), stack.start_storage(launcher=storage))


def test_the_services_work_in_an_environment_meant_for_others(stack: FakeStack) -> None:
    launcher = ("sh", "-c", 'umask 0777; ulimit -n 128; unset HOME; exec "$@"', "sh")
    pixel = stack.start_pixel(env=ODD_ENVIRONMENT, launcher=launcher)
    works(stack, pixel, stack.start_storage(env=ODD_ENVIRONMENT, launcher=launcher))


def test_a_worker_that_ends_is_replaced_although_the_parent_of_main_had_blocked_all_signals(stack: FakeStack) -> None:
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
    launcher = (sys.executable, "-c", f"{block}; os.execv(sys.argv[1], sys.argv[1:])")
    pixel = stack.start_pixel(launcher=launcher)
    [worker] = pixel.workers()
    os.kill(worker, signal.SIGKILL)
    pixel.wait_alive(lambda: pixel.logged("worker_died"), "another worker is started")
    pixel.wait_alive(lambda: pixel.workers() not in ([], [worker]), "another worker")
    assert get(pixel.port).is_gif


@pytest.mark.skipif(sys.platform != "linux", reason="the environment of another process is read from /proc")
def test_workers_get_no_module_of_the_current_directory_no_credentials_and_no_setting(stack: FakeStack) -> None:
    for name in ("random", "msgspec", "tracker"):
        (stack.home / f"{name}.py").write_text("raise SystemExit('a file of the current directory was imported')")
    safely = ("sh", "-c", 'python="$1"; shift; exec "$python" -P "$@"', "sh")
    pixel = stack.start_pixel({"workers": 2}, env=SECRETS, launcher=safely)
    assert get(pixel.port).is_gif
    wait_for(lambda: len(pixel.workers()) == 2, "two workers")
    assert "access-key" in Path(f"/proc/{pixel.pid}/environ").read_text()
    for pid in pixel.workers():
        environment = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0")[:-1])
        assert not environment.keys() & SECRETS.keys()
        assert not set(environment.values()) & set(SECRETS.values())
        assert not [name for name in environment if name.startswith(("AWS_", "TRACKER_", "NOTIFY"))]
        assert environment["PYTHONPATH"]


def signalled_early(service: Service, number: signal.Signals) -> None:
    """Send the signal as soon as the service has prepared itself, long before its event loop runs."""

    def prepared() -> bool:
        blocked = re.search(r"^SigBlk:\s*(\w+)", Path(f"/proc/{service.pid}/status").read_text(), re.MULTILINE)
        return blocked is not None and bool(int(blocked[1], 16) & 1 << (number - 1))

    service.wait_alive(prepared, "prepared")
    service.signal(number)


@pytest.mark.skipif(sys.platform != "linux", reason="the blocked signals of another process are read from /proc")
def test_a_stop_request_in_the_first_second_is_a_clean_stop(stack: FakeStack) -> None:
    services = [
        (stack.start_pixel(ready=False), signal.SIGTERM),
        (stack.start_storage(ready=False), signal.SIGINT),
    ]
    for service, number in services:
        signalled_early(service, number)
    for service, number in services:
        assert service.wait() == 0
        assert f"by={number.name}" in service.output
        assert "Traceback" not in service.output


@pytest.mark.skipif(sys.platform != "linux", reason="the blocked signals of another process are read from /proc")
def test_a_sighup_in_the_first_second_is_acted_on_when_the_service_is_ready(stack: FakeStack) -> None:
    pixel, storage = stack.start_pixel(ready=False), stack.start_storage(ready=False)
    for service in (pixel, storage):
        signalled_early(service, signal.SIGHUP)
    for service in (pixel, storage):
        service.wait_ready()
    pixel.wait_metric("tracker_pixel_reloads", 1, 'result="applied"')
    works(stack, pixel, storage)
