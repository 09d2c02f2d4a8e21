"""Networks that give logits of the next token at every position."""
