"""Schedules requests: the bounded fair queue, the batch, the device thread, and the events."""
