"""The rules for visits, lines, messages and addresses. Pure functions: no asyncio, no I/O, no clock, no logging."""
