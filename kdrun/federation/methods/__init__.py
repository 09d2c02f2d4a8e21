"""What clients do in a round and what the server makes of it: one file per method."""
