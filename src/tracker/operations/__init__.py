"""The operator's commands for a running system: `tracker provision`, `tracker doctor`, `tracker redrive`.

Nothing on a visit's path imports this package. It sees the services only from outside: their configuration,
their files, their admin listeners, and the topic and queues between them at AWS.
"""
