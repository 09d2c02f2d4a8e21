"""The scorecard of a finished student: what it needs on a target, and whether it may be used there."""
