"""A program: lives of both services behind the seam, below the folder it is given, for strace to watch.

Prints the calls that the seam saw, one a line.
"""

import os
import sys
from pathlib import Path

from tests.pixel.test_every_call import SCENARIOS as PIXEL
from tests.seam.method import World, begin, live
from tests.storage.test_every_call import SCENARIOS as STORAGE


def main(folder: Path) -> None:
    for name, scenario in (PIXEL | {"storage": STORAGE["appending"]}).items():
        root = folder / "root" / name
        root.mkdir(parents=True)
        world = World(folder / f"{name}.world")
        scenario.setup(root, world)
        seam = begin(root, world)
        (folder / "root" / f"begins {name}").touch()
        live(scenario, root, world)
        (folder / "root" / f"ends {name}").touch()
        for call in seam.calls:
            what, path = call.split(" ", 1)
            print("open" if what == "create" else what, os.path.normpath(f"{name}/{path}"))
        world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
