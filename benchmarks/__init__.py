"""One script a claim, its peer in the same run: ``python -m benchmarks.NAME`` from the repository's root."""
