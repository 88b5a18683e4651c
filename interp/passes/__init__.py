"""Forward passes that several measurements share."""
