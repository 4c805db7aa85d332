"""Middleware in front of the page and the API: admits requests and hardens responses."""
