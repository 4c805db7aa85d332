"""What protobuf cannot say: limits, reasons of failure, the layout of an adapter slot."""
