"""What a stage costs: FLOPs now; energy and its readers later."""
