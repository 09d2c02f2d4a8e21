"""Sources of texts with numbers that come with kdrun."""
