"""Run records (the truth), their metrics, and the W&B mirror of both. Knows nothing of torch or Lightning."""
