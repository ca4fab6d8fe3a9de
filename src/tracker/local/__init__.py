"""The whole system on one machine: a local SNS and SQS, both services and a demo page.

Nothing on a visit's path imports this package. It only starts the processes of that path.
"""
