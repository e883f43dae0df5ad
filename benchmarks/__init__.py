"""What is measured, side by side with peers. Each module is a command: `python -m benchmarks.NAME`."""
