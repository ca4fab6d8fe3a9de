"""SIGHUP to the pixel: a new configuration at work, and not one request that notices."""

import re
import shutil
import signal

import pytest

from tests.launched import Launched
from tests.ports import free_port

from .processes import Config, Service, merged
from .stack import FakeStack
from .wire import LOOPBACK, Load, get, wait_for


def configured(stack: FakeStack, workers: int = 1) -> tuple[Service, Config]:
    """A pixel, and its whole configuration."""
    config = stack.pixel_config({"workers": workers})
    return stack.start_pixel(config), config


def reload(pixel: Service, config: Config) -> None:
    pixel.reload(config)
    pixel.wait_metric("tracker_pixel_reloads", 1, 'result="applied"')


def test_a_reload_under_load_fails_no_request_and_loses_no_visit(stack: FakeStack) -> None:
    pixel, config = configured(stack)
    stack.start_storage()
    old = pixel.workers()
    with Load(pixel.port) as load:
        load.wait_answered(100)
        reload(pixel, merged(config, {"workers": 2, "privacy": {"honor": ["dnt"]}, "sns": {"format": "plain"}}))
        load.wait_answered(100)
        assert get(pixel.port, headers=[("DNT", "1")]).is_gif
    assert load.failures == 0, pixel.output
    wait_for(lambda: len(pixel.workers()) == 2, "two workers")
    assert not set(pixel.workers()) & set(old)
    pixel.wait_metric("tracker_pixel_visits_discarded", 1, 'reason="privacy"')
    assert pixel.metric("tracker_pixel_worker_restarts") == 0
    stack.assert_exactly_once(load)
    pixel.stop()
    assert stack.segments() == []


def test_a_reload_changes_what_names_a_page_what_is_kept_of_it_and_what_decides_the_address(stack: FakeStack) -> None:
    pixel, config = configured(stack)
    stack.start_storage()

    def visit() -> None:
        target = "/track?page=https%3A%2F%2Fa.example%2Fb%3Fc"
        forwarded = 'proto=https;For="[2001:db8::17]:4711";by=10.0.0.1'
        assert get(pixel.port, target, [("X-Forwarded-For", "6.6.6.6"), ("Forwarded", forwarded)]).is_gif

    visit()
    pages = {"http": {"page_parameter": "page"}, "privacy": {"referrer": "origin"}}
    http = {"trusted_proxies": ["127.0.0.1"], "client_ip_header": "Forwarded"}
    reload(pixel, merged(config, merged(pages, {"http": http})))
    visit()
    rows = [(row[1], row[3]) for row in stack.wait_lines(2)]
    assert rows == [("null", "127.0.0.1"), ("https://a.example/", "2001:db8::17")]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_meets_no_error_through_a_reload(stack: FakeStack) -> None:
    pixel, config = configured(stack)
    command = ["wrk", "-t1", "-c32", "-d60s", f"http://{LOOPBACK}:{pixel.port}/track"]
    with Launched(command, output_file=stack.home / "wrk.out", home=stack.home) as wrk:
        reload(pixel, config)
        assert wrk.running, "the load ended before the reloads did"
        wrk.signal(signal.SIGINT)  # wrk prints its figures
        wrk.wait()
    said = wrk.output
    answered = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    assert answered > 0
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said
    # What wrk had not read when it ended is no answer to wrk.
    wait_for(
        lambda: answered <= pixel.metric("tracker_pixel_hits") <= answered + 32,
        lambda: f"{answered} answers, {pixel.metric('tracker_pixel_hits')} hits",
    )


def test_a_configuration_that_cannot_be_used_is_logged_and_the_old_one_stays_in_force(stack: FakeStack) -> None:
    pixel, config = configured(stack)
    before = pixel.children()
    pixel.reload(merged(config, {"workers": "many"}))
    pixel.wait_metric("tracker_pixel_reloads", 1, 'result="refused"')
    pixel.reload(merged(config, {"http": {"port": free_port()}, "outbox": {"dir": "elsewhere"}}))
    pixel.wait_metric("tracker_pixel_reloads", 2, 'result="refused"')
    wait_for(lambda: len(pixel.logged("reload_refused")) == 2, "both lines of the log")
    first, second = pixel.logged("reload_refused")
    assert f"{pixel.config}: workers: expected auto or a number" in first
    assert f"http.port: expected {pixel.port}, got" in second
    assert "outbox.dir: expected" in second
    assert "restart" in second
    assert pixel.children() == before
    assert get(pixel.port).is_gif
    pixel.stop()


def begin_reload(pixel: Service, config: Config) -> None:
    """Returns in the middle of a reload: a new worker is there, and an old one."""
    before = set(pixel.children())
    pixel.reload(config)
    wait_for(lambda: set(pixel.children()) - before, "a new worker")


def test_in_the_middle_of_a_reload_sigkill_leaves_no_process_a_stop_is_clean_and_neither_loses_anything(
    stack: FakeStack,
) -> None:
    pixel, config = configured(stack)
    stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(100)
        begin_reload(pixel, config)
        pixel.kill()
        pixel = stack.start_pixel(config)
        load.wait_answered(100)
        begin_reload(pixel, config)
        pixel.stop()
    assert stack.segments() == []
    stack.assert_exactly_once(load)
