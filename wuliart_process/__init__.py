"""What every process of the service needs from its operating system and its operator.

Logs, traces, token files, private folders, Unix sockets and standard streams. Imports nothing of
the service itself.
"""
