"""The values of metrics, read as a scrape reads them."""

from prometheus_client import Counter, Gauge


def value(metric: Counter | Gauge, **labels: str) -> float:
    """The value of a counter or a gauge: the sum of its samples that have these labels."""
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    )
