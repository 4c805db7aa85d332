"""Process infrastructure that all programs share, independent of what they serve.

Logs, traces, token files, TLS certificates, bounded listeners, private folders, Unix sockets and
standard streams.
"""
