"""Tables that packages ship."""
