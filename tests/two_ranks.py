"""One of two ranks: python two_ranks.py RANK FOLDER. Writes value and gradients of every loss over the whole batch for its share of a batch."""

import sys
from pathlib import Path

import feature_losses
import torch
from feature_losses import begun, beside, drawn, value
from logit_losses import OF_BATCHES, gradient, made, total

SHARES = (slice(0, 4), slice(4, 7))
"""Rows of the ranks, of seven samples."""
PROOFS = [proof for proof in feature_losses.PROOFS if proof.batch and not proof.normalizes]


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for proof in PROOFS:
        whole = drawn(proof.trials[0], batch=7)
        objective, rows = begun(proof, whole), SHARES[rank]
        pairs = [(s.detach()[rows].requires_grad_(), t[rows]) for s, t in whole]
        here = value(objective, pairs, count=7 / 2, **beside(whole, rows))
        gradients = torch.autograd.grad(here, [student for student, _ in pairs])
        state = {name: b for module in objective.modules.values() for name, b in module.named_buffers()}
        found[proof.name] = (here.detach(), gradients, state)
    for loss in OF_BATCHES:
        share = {name: tensor.detach()[SHARES[rank]] for name, tensor in made(7).items() if tensor is not None}
        share["student_logits"].requires_grad_()
        here = total(loss, {**share, "mask": None}, 7 / 2)
        found[loss.name] = (here.detach(), [gradient(here, share)])
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
