"""The cost of this library, compared with other libraries: ``python -m benchmarks``."""
