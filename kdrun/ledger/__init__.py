"""What a stage costs: FLOPs, seconds, and joules by sensors or by a model."""
