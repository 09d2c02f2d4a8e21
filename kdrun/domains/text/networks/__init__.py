"""Networks that read tokens of a text and give logits of its classes."""
