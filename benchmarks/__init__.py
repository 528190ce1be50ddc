"""What the library costs, beside the libraries people use today: ``python -m benchmarks``."""
