"""What a batch is: forward pass to prediction, the tensors an objective can ask for, and the metrics."""
