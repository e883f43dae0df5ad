"""Whether an answer is right: one pure function a family of metrics, with the verdicts of the official scripts."""
