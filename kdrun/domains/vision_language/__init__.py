"""Questions about images, answered in words."""
