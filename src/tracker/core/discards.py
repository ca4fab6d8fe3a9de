"""Why a visit is given up: every reason there is, for the counts of the workers, the metrics and the glossary."""

NOT_RECORDED = ("outbox_full", "outbox_io", "privacy", "rate_limited", "no_address")
"""The visitor had the GIF, the visit went nowhere."""

NOT_PUBLISHED = ("refused", "damaged")
"""The visit was in the outbox, and no message will carry it."""
