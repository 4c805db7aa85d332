"""What the programs share as processes, independent of what they serve.

Logs, traces, token files, TLS certificates, bounded listeners, private folders, Unix sockets and
standard streams.
"""
