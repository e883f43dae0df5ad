"""What CPUs run."""
