"""Reports and exports of the visit log: what a visit becomes when people ask about it.

The room stands behind the log and touches nothing in front of it: it reads log files, and knows of the services only
the line that `core` defines. DuckDB, rich and the lists of user agents are imported here alone, and only when a command
runs; they are the `analysis` extra.
"""

from importlib.util import find_spec

from tracker.errors import TrackerError

_EXTRA = {
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
            f"reports and exports need {', '.join(missing)}, not installed here; in the source tree of this release: "
            "pip install --require-hashes -r requirements/analysis.txt"
        )
