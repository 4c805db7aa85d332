"""The service on this machine: latency, overhead, hot swap, parity with stock."""
