"""Looking into what a run wrote, without loading all of it."""
