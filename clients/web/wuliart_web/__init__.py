"""The web page on 7860 and the doors that other apps know; a client of the gRPC service."""
