"""Commands of the Makefile, and the processes that make, tests, and benchmarks start."""
