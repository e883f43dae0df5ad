"""The rows as tasks: the published files read as they are, the prompt of each item, its shots and stop strings."""
