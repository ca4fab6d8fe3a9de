"""`make soak`: sieges of hundreds of rounds, outages of two million visits with both services' memory, and every call.

make soak                                        all of it, some two hours
make soak ARGS="--seed 7 --rounds 20"            a siege again, from its printed seed, and nothing else
make soak ARGS="--seed 7 --rounds 0 --archived 20"   the siege of the archive again
make soak ARGS="--rounds 0 --visits 100000"      no siege but that of the archive, smaller outages

The last part is what `make test` runs a little of: each call of the code failing or the last, with all faults and
hundreds of seeds, power cuts, the models with deeper bounds, and bad visitors by the thousand.

SIGTERM ends it like Ctrl-C: the part that runs ends its services first.
"""

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.archiving import ArchivedSiege
from tests.soak.outage import Outages
from tests.system.siege import Siege
from tests.system.verdict import Verdict

DEEP = (
    *("tests/pixel/test_every_call.py", "tests/pixel/test_power_cut.py", "tests/pixel/test_fast_path_and_fallback.py"),
    *("tests/storage/test_every_call.py", "tests/storage/test_power_cut.py", "tests/storage/test_exactly_once.py"),
    *("tests/archive/test_every_call.py", "tests/archive/test_power_cut.py", "tests/archive/test_parts.py"),
    *("tests/archive/test_s3.py", "tests/model", "tests/system/test_bad_visitors.py"),
    *("tests/archive/test_erase_command.py", "tests/archive/test_day_files.py", "tests/pixel/test_known_requests.py"),
    *("tests/analysis/test_commands.py", "tests/analysis/test_parquet_files.py"),
    "tests/archive/test_erasing_every_call.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="of the sieges; with one, nothing else is run")
    parser.add_argument("--rounds", type=int, default=300, help="of the siege; 0 leaves it out")
    parser.add_argument("--archived", type=int, help="rounds of the siege of the archive: 100, or 0 with a seed")
    parser.add_argument("--visits", type=int, default=2_000_000, help="of each outage; 0 leaves them out")
    parser.add_argument("--no-calls", action="store_true", help="leave every call and the models out")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    clean, alone = True, options.seed is not None
    seed = options.seed if alone else secrets.randbits(32)
    if options.rounds:
        clean = _siege(seed, options.rounds)
    if archived := (0 if alone else 100) if options.archived is None else options.archived:
        clean = _archived_siege(seed, archived) and clean
    if options.visits and not alone:
        with tempfile.TemporaryDirectory(prefix="tracker-outage-") as home:
            clean = Outages(Path(home), options.visits).run() and clean
    if not options.no_calls and not alone:
        clean = _deep() and clean
    return 0 if clean else 1


def _end(number: int, _: object) -> None:
    """End this process by an exception, so that what it has started is ended by those who have started it."""
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt them
    raise SystemExit(128 + number)


def _deep() -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *DEEP]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes its background jobs ignore it
    with subprocess.Popen(command, env={**os.environ, "TRACKER_SOAK": "1"}, process_group=0) as tests:
        try:
            return tests.wait() == 0
        except BaseException:
            os.killpg(tests.pid, signal.SIGINT)  # as Ctrl-C, after which each test ends its services
            raise


def _siege(seed: int, rounds: int) -> bool:
    print(f"siege of {rounds} rounds, seed {seed}", flush=True)
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="tracker-siege-"))
    siege = Siege(home, seed)
    try:
        siege.run(rounds, _progress)
    except AssertionError as error:
        siege.verdict.strange.append(str(error))
    print(f"\n{_table(siege.verdict)}\n{time.monotonic() - began:.0f} s")
    if siege.verdict.is_clean:
        shutil.rmtree(home)
    else:
        print(f"NOT CLEAN: {siege.repeat()}\n{siege.verdict}\nlog, outbox and output are in {home}")
    return siege.verdict.is_clean


def _archived_siege(seed: int, rounds: int) -> bool:
    print(f"siege of the archive of {rounds} rounds, seed {seed}", flush=True)
    home = Path(tempfile.mkdtemp(prefix="tracker-archived-"))
    siege = ArchivedSiege(home, seed)
    clean = siege.run(rounds)
    kills = ", ".join(f"{name} {count}" for name, count in sorted(siege.kills.items()))
    print(f"{siege.answered} visits answered, {siege.archived} objects archived; killed: {kills}")
    if clean:
        shutil.rmtree(home)
    else:
        print("NOT CLEAN:", *siege.problems, f"logs and output are in {home}", sep="\n")
    return clean


def _progress(verdict: Verdict) -> None:
    print(f"\rround {verdict.rounds}, {verdict.answered} visits judged", end="", flush=True)


def _table(verdict: Verdict) -> str:
    rows = [("rounds", verdict.rounds)]
    rows += [(f"fault: {kind}", count) for kind, count in sorted(verdict.injected.items())]
    rows += [("visits answered", verdict.answered), ("missing", len(verdict.missing)), ("twice", len(verdict.twice))]
    rows += [("torn", len(verdict.torn)), ("damaged in a journal", verdict.damaged)]
    rows += [("torn appends kept aside", verdict.kept_aside), ("else not as it should be", len(verdict.strange))]
    rows += [(f"largest {process}, MiB", kib >> 10) for process, kib in sorted(verdict.memory.items())]
    return "\n".join(f"| {name:<32} | {count:>9,} |" for name, count in rows)


if __name__ == "__main__":
    sys.exit(main())
