"""`make soak`: a siege of hundreds of rounds, then outages of two million visits with both services' memory.

make soak                                        all of it
make soak ARGS="--seed 7 --rounds 20"            a siege again, from its printed seed
make soak ARGS="--rounds 0 --visits 100000"      the outages alone, smaller
"""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.outage import Outages
from tests.system.siege import Siege
from tests.system.verdict import Tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of the siege")
    parser.add_argument("--rounds", type=int, default=300, help="of the siege; 0 leaves it out")
    parser.add_argument("--visits", type=int, default=2_000_000, help="of each outage; 0 leaves them out")
    options = parser.parse_args()
    clean = True
    if options.rounds:
        clean = _siege(options.seed, options.rounds)
    if options.visits:
        with tempfile.TemporaryDirectory(prefix="tracker-outage-") as home:
            clean = Outages(Path(home), options.visits).run() and clean
    return 0 if clean else 1


def _siege(seed: int, rounds: int) -> bool:
    print(f"siege of {rounds} rounds, seed {seed}", flush=True)
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="tracker-siege-"))
    siege = Siege(home, seed)
    tally = siege.run(rounds, _progress)
    print(f"\n{_table(tally)}\n{time.monotonic() - began:.0f} s")
    if tally.is_clean:
        shutil.rmtree(home)
    else:
        print(f"NOT CLEAN: {siege.repeat()}\n{tally}\nlog, outbox and output are in {home}")
    return tally.is_clean


def _progress(tally: Tally) -> None:
    print(f"\rround {tally.rounds}, {tally.answered} visits judged", end="", flush=True)


def _table(tally: Tally) -> str:
    rows = [("rounds", tally.rounds)]
    rows += [(f"fault: {kind}", count) for kind, count in sorted(tally.injected.items())]
    rows += [("visits answered", tally.answered), ("missing", len(tally.missing)), ("twice", len(tally.twice))]
    rows += [("torn", len(tally.torn)), ("torn appends kept aside", tally.kept_aside)]
    rows += [("else not as it should be", len(tally.strange))]
    return "\n".join(f"| {name:<32} | {count:>9,} |" for name, count in rows)


if __name__ == "__main__":
    sys.exit(main())
