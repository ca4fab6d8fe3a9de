"""Looking after a running system: `tracker provision`, `tracker doctor`, `tracker redrive`.

Nothing on a visit's path imports this package. It knows the services from outside: their configuration, their files,
their admin listeners, and what lies between them at AWS.
"""
