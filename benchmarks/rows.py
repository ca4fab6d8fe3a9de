"""Every row of `make bench`, in the order of its page, with what it is measured by and its targets.

To add one, let a measurement return one more value, and add a line here. A new measurement is a function that takes a
`Bench` and returns `Values`; it gets a group of its own.
"""

from benchmarks import analysis_rows, archive_rows, pixel_rows, storage_rows, system_rows
from benchmarks.peers import PEERS
from benchmarks.pixel_rows import FIXED_RATE, MANY_CONNECTIONS, SATURATED_SECONDS, SHARES
from benchmarks.report import Group, Row
from benchmarks.system_rows import CALLS_RATES, DISTANCE, LATENCY_RATE, LITTLE_RATE, MANY_WORKERS, ORPHANS, SHORT_SPAN
from benchmarks.visitors import MIXES

FAR = f"{DISTANCE * 1000:g}"
OF_NGINX: dict[str, tuple[float | None, float | None]] = {  # "nothing repeats": what it was, and 20 % less CPU time
    "Chrome": (0.8, 1.0), "mixed": (None, None), "four headers": (0.65, 0.9), "nothing repeats": (0.41, 0.51),
}  # fmt: skip

GROUPS = {
    "hits": Group(
        "A hit, beside nginx",
        pixel_rows.hits,
        "wrk with 64 connections sends as fast as it is answered. nginx is `empty_gif` with `access_log buffer=64k`\n"
        "and one worker process. The requests are in `benchmarks/visitors.py`. *Chrome*: 4,000 different requests,\n"
        "each with the thirteen headers of Chrome. *mixed*: 4,000 of Chrome, Safari, Gmail's image proxy and Firefox,\n"
        "70, 18, 8 and 4 in a hundred. *four headers*: one request, repeated, as in earlier benchmarks. *nothing\n"
        "repeats*: as Chrome, each with a cookie, a query and a client's address of its own, from a trusted proxy.",
        [
            *(
                Row(
                    what=f"nginx's CPU a hit over the pixel's, {mix}",
                    value=f"CPU a hit: {mix}, nginx", over=f"CPU a hit: {mix}, pixel",
                    least=least, aim=aim, more_is_better=True,
                )
                for mix, (least, aim) in OF_NGINX.items()
            ),
            *(
                Row(what=f"CPU a hit: {name}, {mix}", value=f"CPU a hit: {mix}, {name}", unit="µs", digits=1)
                for name in ("pixel", "nginx")
                for mix in MIXES
            ),
            Row(what="CPU a hit: main, which publishes, mixed", value="main: mixed, pixel", unit="µs", digits=1),
            *(
                Row(what=f"hits a second on one core: {name}, mixed", value=f"hits a second: mixed, {name}", digits=0)
                for name in ("pixel", "nginx")
            ),
        ],
    ),
    "peers": Group(
        "A hit, beside other servers",
        pixel_rows.peers,
        "The mixed requests. All answer with the GIF; only the pixel and the naive application publish, and nginx\n"
        "writes its access log. h2o and haproxy, programs in C, show the limit. granian (RSGI) and uvicorn (with\n"
        "httptools and uvloop) are servers for Python applications. The naive application (`benchmarks/naive.py`)\n"
        "uses aiohttp as its documentation shows, and publishes each visit in the background.",
        [
            Row(
                what="the naive application's CPU a hit over the pixel's",
                value="CPU a hit: naive", over="CPU a hit: pixel",
                unit="times", digits=0, least=25, aim=60, more_is_better=True,
            ),
            *(
                Row(what=f"CPU a hit: {name}", value=f"CPU a hit: {name}", unit="µs", digits=1)
                for name in ("pixel", *PEERS, "naive")
            ),
            *(
                Row(what=f"hits a second on one core: {name}", value=f"hits a second: {name}", digits=0)
                for name in ("pixel", *PEERS, "naive")
            ),
        ],
    ),
    "answers": Group(
        "The time of an answer",
        pixel_rows.answers,
        "The client sends the mixed requests at a constant rate. The time of an answer counts from the moment at\n"
        "which the request was due, so that a request which had to wait counts in full. The rates are parts of what\n"
        "the pixel can answer (its capacity, measured just before), and a fixed one; nginx gets the same. Worker,\n"
        "main and publishing share the one core. The client has its part in each time, which nginx's rows show.",
        [
            Row(
                what=f"the pixel's p99 over nginx's, at {FIXED_RATE:,} hits a second",
                value="p99: fixed, pixel", over="p99: fixed, nginx", unit="times", least=4, aim=2,
            ),
            *(
                Row(what=f"{text} at {of}: {name}", value=f"{which}: {at}, {name}", unit="ms")
                for at, of in (
                    ("fixed", f"{FIXED_RATE:,} hits a second"),
                    *((f"{share} %", f"{share} % of capacity") for share in SHARES),
                )
                for name in ("pixel", "nginx")
                for which, text in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9"))
            ),
            *(
                Row(what=f"hits a second at {share} % of capacity", value=f"rate: {share} %", digits=0)
                for share in SHARES
            ),
        ],
    ),
    "saturation": Group(
        "At saturation",
        pixel_rows.saturation,
        f"wrk sends as fast as it is answered for {SATURATED_SECONDS} s. Then what is published is counted at once.",
        [
            Row(
                what=f"visits not yet published right after {SATURATED_SECONDS} s",
                value="unpublished", digits=0, least=15_000, aim=5_000,
            ),
        ],
    ),
    "workers": Group(
        "A second worker",
        pixel_rows.workers,
        "64 connections a worker; server and client share all cores.",
        [
            Row(
                what="`workers: 2`: CPU a hit over that of one worker",
                value="CPU a hit: workers: 2", over="CPU a hit: workers: 1", unit="times", least=1.1, aim=1.0,
            ),
        ],
    ),
    "many-workers": Group(
        "Many workers, far from SNS",
        system_rows.many_workers,
        f"{MANY_WORKERS} workers, with the same part of {LITTLE_RATE} hits a second each. SNS answers {FAR} ms later.",
        [
            Row(what="from answer to durable line, many workers, median", value="p50", unit="s"),
            Row(what="from answer to durable line, many workers, p99", value="p99", unit="s", least=0.4, aim=0.3),
            Row(what="publishing calls a second", value="publishes a second", digits=1, least=6, aim=5),
        ],
    ),
    "orphans": Group(
        "Journals of workers that have ended",
        system_rows.orphans,
        f"{ORPHANS} journals, each with one visit, when the pixel starts. SNS answers {FAR} ms later.",
        [Row(what="journals published and removed, a second", value="orphans a second", digits=0)],
    ),
    "start": Group(
        "Start",
        pixel_rows.start,
        "From the start of the process, on all cores.",
        [Row(what="from process start to first GIF", value="start", unit="s", least=1.0, aim=0.4)],
    ),
    "outage": Group(
        "The pixel's memory",
        pixel_rows.outage,
        "Under full load, and through an outage: about two million visits while SNS answers 503, and their publishing.",
        [
            Row(what="memory of a worker under full load", value="worker", unit="MB", digits=0, least=44, aim=40),
            Row(what="memory of main under full load", value="main", unit="MB", digits=0, least=66, aim=60),
            Row(what="growth of worker through an outage", value="worker growth", unit="MB", digits=1, least=5, aim=0),
            Row(what="growth of main through an outage", value="main growth", unit="MB", digits=1, least=5, aim=0),
        ],
    ),
    "storage": Group(
        "A visit in storage",
        storage_rows.backlog,
        "The start ends when the first visit is durable, so that everything is loaded. Then a backlog of two million\n"
        "visits in the longest spans, from 50,000 addresses, is stored.",
        [
            Row(what="CPU a visit, from SQS reply to durable line", value="visit", unit="µs", least=2.2, aim=1.8),
            Row(what="CPU of a start", value="start", unit="s", least=0.9, aim=0.6),
            Row(what="peak memory through the backlog", value="peak", unit="MB", digits=0, least=88, aim=80),
        ],
    ),
    "sizes": Group(
        "A visit in bytes",
        system_rows.sizes,
        "The visits are those of `benchmarks/sample.py`.",
        [
            Row(what="a visit in the journal", value="journal", unit="bytes", digits=0),
            Row(what="a visit in the log", value="log", unit="bytes", digits=0),
            Row(what="visits in the longest span", value="visits", digits=0),
            Row(what="a message of the longest span", value="long message", unit="bytes", digits=0),
            Row(what=f"a message of {SHORT_SPAN} visits", value="short message", unit="bytes", digits=0),
        ],
    ),
    "calls": Group(
        "AWS calls",
        system_rows.calls,
        "Publish, ReceiveMessage and DeleteMessageBatch, counted during ten seconds of a steady load.",
        [
            Row(
                what=f"AWS calls for a million visits at {rate:,} a second",
                value=f"{rate} a second", digits=0, least=least, aim=aim,
            )
            for rate, least, aim in zip(CALLS_RATES, (12_000, 1_500), (10_500, 1_050), strict=True)
        ],
    ),
    "latency": Group(
        "From answer to line",
        system_rows.latency,
        f"{LATENCY_RATE:,} hits a second through the local broker of `make run`; log and ledger are read every 10 ms.",
        [
            Row(what="from answer to durable line, median", value="p50", unit="s", least=0.5, aim=0.3),
            Row(what="from answer to durable line, p99", value="p99", unit="s", least=1.0, aim=0.5),
        ],
    ),
    "connections": Group(
        "Growth: a hit against connections",
        pixel_rows.connections,
        "The mixed requests.",
        [
            Row(
                what=f"CPU a hit: {name}, {count:,} connections",
                value=f"CPU a hit: {name}, {count} connections", unit="µs", digits=1,
            )
            for count in MANY_CONNECTIONS
            for name in ("pixel", "nginx")
        ],
    ),
    "growth": Group(
        "Growth: a visit against log and ledger",
        storage_rows.growth,
        "400,000 visits in the longest spans.",
        [
            Row(what="CPU a visit: empty log and ledger", value="small", unit="µs"),
            Row(what="CPU a visit: log of 10 GiB (sparse)", value="log", unit="µs"),
            Row(what="CPU a visit: ledger of 100,000 journals", value="ledger", unit="µs"),
        ],
    ),
    "reports": Group(
        "Reports of a long log",
        analysis_rows.reports,
        "`tracker report --html` of an invented log, read from the page cache. GoAccess makes its HTML page of the\n"
        "same log, `wc -l` counts its lines, and DuckDB's bare scan reads every column. Times are wall time.",
        [
            Row(what="a report of 10,000,000 lines, time", value="report of 100%: time", unit="s", digits=1),
            Row(
                what="a report of 10,000,000 lines, peak memory",
                value="report of 100%: peak", unit="MiB", digits=0, least=500, aim=500,
            ),
            Row(
                what="GoAccess's time over ours, 3,000,000 lines",
                value="goaccess: time", over="report of 30%: time", unit="times", least=1, aim=1, more_is_better=True,
            ),
            Row(
                what="GoAccess's peak memory over ours, 3,000,000 lines",
                value="goaccess: peak", over="report of 30%: peak", unit="times", least=1, aim=1, more_is_better=True,
            ),
            Row(what="a report of 3,000,000 lines, time", value="report of 30%: time", unit="s", digits=1),
            Row(what="`wc -l` of 3,000,000 lines, time", value="wc: time", unit="s", digits=1),
            Row(what="DuckDB's bare scan of 3,000,000 lines, time", value="scan: time", unit="s", digits=1),
            *(
                Row(what=f"a report of {lines:,} lines, CPU a line", value=f"report of {share}: CPU a line", unit="µs")
                for lines, share in ((1_000_000, "10%"), (3_000_000, "30%"), (10_000_000, "100%"))
            ),
        ],
    ),
    "archive": Group(
        "The archive",
        archive_rows.archive,
        "The Parquet objects of one closed log, made by one thread from a text in the page cache, without the time\n"
        "of S3 and without the start of the process. The log is that of the reports, with the times of one day. "
        "pyarrow imports pandas here, which the extra `archive` does not have: 60 MiB of the peak.",
        [
            Row(what="archive: CPU a visit", value="CPU a visit", unit="µs", least=1.5, aim=1.5),
            Row(what="archive: peak memory", value="peak", unit="MiB", digits=0),
            Row(what="archive: bytes a visit", value="bytes a visit", unit="bytes", digits=1),
            *(
                Row(
                    what=f"archive: bytes a visit of the column `{column}`",
                    value=f"bytes a visit: {column}", unit="bytes", digits=1,
                )
                for column in ("time", "page", "user_agent", "ip")
            ),
            Row(what="the same visits as text: bytes a visit", value="text bytes a visit", unit="bytes", digits=1),
            *(
                Row(
                    what=f"{command} of text over {command} of Parquet, {what}", value=f"{command} of text: {what}",
                    over=f"{command} of Parquet: {what}", unit="times", least=1, aim=1, more_is_better=True,
                )
                for command, what in (("report", "CPU"), ("report", "time"), ("export", "CPU"))
            ),
        ],
    ),
}  # fmt: skip
