"""What is sent to a queue in batch calls: no batch has more entries than one call takes."""

import pytest

from tracker.core.delivery import BATCH_ENTRIES, batches


@pytest.mark.parametrize("count", [0, 1, BATCH_ENTRIES, BATCH_ENTRIES + 1, 3 * BATCH_ENTRIES])
def test_entries_are_divided_in_their_order_into_full_batches_and_a_rest(count: int) -> None:
    entries = list(range(count))
    found = list(batches(entries))
    assert [entry for batch in found for entry in batch] == entries
    assert all(len(batch) == BATCH_ENTRIES for batch in found[:-1])
    assert all(0 < len(batch) <= BATCH_ENTRIES for batch in found)
