"""System tests: the services as the processes they are, seen only from outside. Nothing here imports `tracker`, but for
`earlier_storage`, which is run as a process."""
