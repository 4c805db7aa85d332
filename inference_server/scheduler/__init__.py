"""Schedules images: the bounded queue, the batch, the device thread, and a request's events."""
