"""Hardware targets: what a run may use, resolved once before anything is fingerprinted."""
