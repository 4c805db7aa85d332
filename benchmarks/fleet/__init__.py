"""The service on several GPUs with Ray Serve."""
