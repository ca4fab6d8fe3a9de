"""Every measurement of `make bench`, in the order of its page.

To add one, write a function that takes a `Bench`, and a line here.
"""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks import analysis_rows, pixel_rows, storage_rows, system_rows
from benchmarks.bench import Bench
from benchmarks.report import Row


class Group(NamedTuple):
    title: str
    measure: Callable[[Bench], list[Row]]


GROUPS = {
    "hits": Group("A hit, beside nginx and a naive application", pixel_rows.hits),
    "workers": Group("A second worker", pixel_rows.workers),
    "start": Group("Start", pixel_rows.start),
    "outage": Group("The pixel's memory", pixel_rows.outage),
    "storage": Group("A visit in storage", storage_rows.backlog),
    "sizes": Group("A visit in bytes", system_rows.sizes),
    "calls": Group("AWS calls", system_rows.calls),
    "latency": Group("From answer to line", system_rows.latency),
    "connections": Group("Growth: a hit against connections", pixel_rows.connections),
    "growth": Group("Growth: a visit against log and ledger", storage_rows.growth),
    "reports": Group("Reports of a long log", analysis_rows.reports),
}
