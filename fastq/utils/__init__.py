"""Import paths that tutorials use."""
