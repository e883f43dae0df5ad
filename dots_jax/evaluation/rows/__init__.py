"""The rows of the report's tables 2, 3 and 5: one record each, with what judges an answer."""
