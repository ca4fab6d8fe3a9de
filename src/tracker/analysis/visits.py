"""The tables of a report: one pass over the logs, and one classification of each distinct user agent."""

import duckdb

from tracker.analysis.agents import classify
from tracker.analysis.database import REPORT_THREADS, visits_of
from tracker.analysis.log_files import LogFiles
from tracker.analysis.selection import Selection
from tracker.core.visit import CANARY_AGENT

QUARTER = 900  # seconds; the offset of every time zone of today is a whole number of quarters of an hour
YEAR_ONE = -62_135_596_800_000_000
"""The first microsecond of the calendar, from which quarters are counted."""

AGENTS_BATCH = 10_000  # user agents that are classified in one step


def read_visits(database: duckdb.DuckDBPyConnection, logs: LogFiles, selection: Selection, *, with_query: bool) -> None:
    """Make the table `visits`, with texts escaped as in the log. `visitor` is a 64-bit hash of address and agent."""
    database.execute("SET preserve_insertion_order = false")
    with visits_of(database, logs, REPORT_THREADS, short=True) as source:
        chosen, values = selection.visits_in(source)
        database.execute(
            f"CREATE TABLE visits AS SELECT t, {'r' if with_query else 'path'} AS page, site_of(path) AS site, "
            f"coalesce(u, '') AS agent, hash(u, i) AS visitor "
            f"FROM (SELECT *, page_of(r) AS path FROM ({chosen}))",
            values,
        )


def classify_visits(database: duckdb.DuckDBPyConnection, selection: Selection) -> None:
    """Make the table `agents`, and the view `classified` of the visits with these agents.

    The user agents of `tracker doctor` are left out, and so are its visits.
    """
    classify_agents(database, f"SELECT agent FROM visits WHERE NOT starts_with(agent, '{CANARY_AGENT}')")
    database.execute(
        "CREATE VIEW classified AS SELECT t, page, site, visitor, agent, kind, "
        f"((epoch_us(t) + {-YEAR_ONE}) // {QUARTER * 1_000_000})::INTEGER AS quarter "
        f"FROM visits JOIN agents USING (agent) {'WHERE kind <> $$bot$$' if selection.exclude_bots else ''}"
    )


def classify_agents(database: duckdb.DuckDBPyConnection, agents: str) -> None:
    """Make the table `agents`, a batch of user agents at a time. `agents`: a query whose one column is `agent`."""
    database.execute("CREATE TABLE agents (agent VARCHAR, kind VARCHAR, name VARCHAR, system VARCHAR, device VARCHAR)")
    database.execute(f"CREATE TABLE distinct_agents AS SELECT DISTINCT agent FROM ({agents})")
    [(count,)] = database.execute("SELECT count(*) FROM distinct_agents").fetchall()
    for start in range(0, count, AGENTS_BATCH):
        batch = database.execute(
            "SELECT agent, unescape(agent) FROM distinct_agents WHERE rowid >= ? AND rowid < ?",
            [start, start + AGENTS_BATCH],
        ).fetchall()
        classified = [(escaped, classify(text)) for escaped, text in batch]
        rows = [(escaped, agent.kind, agent.name, agent.system, agent.device) for escaped, agent in classified]
        database.execute(
            "INSERT INTO agents SELECT unnest(?), unnest(?), unnest(?), unnest(?), unnest(?)",
            [list(column) for column in zip(*rows, strict=True)],
        )
