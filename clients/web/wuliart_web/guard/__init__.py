"""What stands before the page and the API: which requests reach them, and how they are answered."""
