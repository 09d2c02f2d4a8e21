"""How figures, names and commands are shown, wherever they are shown."""
