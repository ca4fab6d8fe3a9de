"""System tests: the services as the processes they are, seen only from outside. Nothing here imports `tracker`."""
