"""Reports and exports of the visit log: `tracker report` and `tracker export`.

This package only reads log files. Of the services it knows the log line, which `core` defines, and the names of log
files. DuckDB, rich and the lists of user agents are imported in this package only, and only when a command runs. They
are the `analysis` extra.
"""

import sys
from importlib.util import find_spec

from tracker.errors import TrackerError
from tracker.extras import how_to_install

_EXTRA = {
    **({"backports.zstd": "backports.zstd"} if sys.version_info < (3, 14) else {}),
    "duckdb": "DuckDB",
    "rich": "rich",
    "ua_parser": "ua-parser",
    "ua_parser_rs": "ua-parser-rs",
    "crawleruseragents": "crawler-user-agents",
}


def require_extra() -> None:
    """Raises TrackerError, with what to install, when a package of the extra is missing."""
    missing = [name for module, name in _EXTRA.items() if find_spec(module) is None]
    if missing:
        raise TrackerError(
            f"reports and exports need {', '.join(missing)}, not installed here; {how_to_install('analysis')}"
        )
