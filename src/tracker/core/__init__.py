"""The rules a visit obeys, and nothing else: no asyncio, no I/O, no clock, no logging."""
