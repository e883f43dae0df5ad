"""One run of the rows with one checkpoint: requests, the model, the folder of results, the report."""
