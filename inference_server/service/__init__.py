"""The gRPC edge: messages in, messages out, failures as statuses."""
