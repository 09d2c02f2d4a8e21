"""From the words on the command line to one checked, frozen, plain config per seed. Nothing here imports torch."""
