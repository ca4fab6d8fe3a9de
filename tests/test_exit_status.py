"""The exit status of the commands, and what they print about an error."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from tracker import __version__, cli, exit_status
from tracker.errors import AwsRefused, AwsUnreachable, ConfigurationError, TrackerError, UsageError
from tracker.exit_status import status_of
from tracker.local.__main__ import main as local
from tracker.pixel.__main__ import main as pixel
from tracker.storage.__main__ import main as storage


def failing(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize("found", [0, 1])
def test_what_a_command_finds_is_its_status(found: int) -> None:
    assert status_of(lambda: found, "tracker") == found


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("--to: what"), 2),
        (ConfigurationError("pixel.yaml: http: what"), 78),
        (TrackerError("no ledger"), 3),
        (AwsUnreachable("no reply"), 3),
        (AwsRefused("AccessDenied", code="AccessDenied"), 3),
        (PermissionError(13, "Permission denied"), 3),
        (ZeroDivisionError("a fault in the code"), 3),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
    ],
)
def test_each_kind_of_error_has_one_status(error: BaseException, status: int) -> None:
    program = (
        "import sys\nfrom tracker.errors import *\nfrom tracker.exit_status import status_of\n"
        f"def run():\n    raise {error!r}\nsys.exit(status_of(run, 'tracker'))\n"
    )
    if isinstance(error, AwsRefused):  # its repr is not its constructor
        assert status_of(failing(error), "tracker") == status
        return
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status
    assert ("Traceback" in done.stderr) == isinstance(error, ZeroDivisionError)
    assert ("tracker: " in done.stderr) == isinstance(error, (TrackerError, PermissionError))


def test_an_error_is_printed_without_unprintable_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(failing(TrackerError("a\x1b[2J\nb\u202e")), "tracker") == 3
    assert capsys.readouterr().err == "tracker: a\\x1b[2J\nb\\u202e\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_output_that_cannot_be_written_is_not_taken_for_something_found() -> None:
    program = (
        "import sys\nfrom tracker.exit_status import status_of\nsys.exit(status_of(lambda: print('x') or 0, 'tracker'))"
    )
    # -E: with PYTHONUNBUFFERED nothing would be left to write at the end.
    command = [sys.executable, "-E", "-c", program]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert done.returncode == exit_status.COULD_NOT_LOOK
    assert done.stderr == "tracker: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (cli.main, []),
        *((cli.main, [command]) for command in cli.COMMANDS),
        (pixel, []),
        (storage, []),
        (local, []),
        (local, ["run"]),
        (local, ["broker"]),
    ],
)
def test_every_command_shows_its_version(
    main: Callable[[list[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tracker {__version__}\n"
