"""What is missing is named with a command that installs it here."""

import shlex
from pathlib import Path

import tracker
from tracker.extras import how_to_install

ROOT = Path(__file__).parent.parent


def test_in_an_editable_installation_the_command_names_the_lock_of_this_tree() -> None:
    said = how_to_install("analysis")
    command = shlex.split(said.removeprefix("run: "))
    assert command[1:5] == ["-m", "pip", "install", "--require-hashes"]
    assert command[-1] == str(ROOT / "requirements/analysis.txt")


def test_an_installed_wheel_asks_for_the_source_tree_of_the_same_release(tmp_path: Path) -> None:
    package = tmp_path / "lib" / "python3.11" / "site-packages" / "tracker" / "__init__.py"
    said = how_to_install("analysis", "/opt/with space/bin/python", package)
    assert said == (
        f"in the source tree of release {tracker.__version__}, run: "
        "'/opt/with space/bin/python' -m pip install --require-hashes -r requirements/analysis.txt"
    )
