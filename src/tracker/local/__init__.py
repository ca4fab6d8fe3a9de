"""The whole system on one machine: a local SNS and SQS, both services and a demo page.

Nothing on a visit's path imports this package; it only starts what is on it.
"""
