"""Reports and exports of the visit log.

This package reads log files and changes nothing. Of the services it uses only the format of a line, which `core`
defines. DuckDB, rich and the lists of user agents are imported in this package only, and only when a command runs; they
are the `analysis` extra.
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
    """Raises TrackerError, which says what to install, when a package of the extra is missing."""
    missing = [name for module, name in _EXTRA.items() if find_spec(module) is None]
    if missing:
        raise TrackerError(
            f"reports and exports need {', '.join(missing)}, not installed here: pip install 'tracking-pixel[analysis]'"
        )
