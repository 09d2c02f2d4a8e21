"""One of two ranks: python two_ranks.py RANK FOLDER. Writes value and gradients of every loss over the whole batch for its share of a batch."""

import sys
from pathlib import Path

import torch
from feature_losses import PROOFS, begun, drawn, value
from logit_losses import OF_BATCHES, gradient, made, total

SHARES = (slice(0, 4), slice(4, 7))
"""Rows of the ranks, of seven samples."""


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for proof in PROOFS:
        if proof.batch:
            whole = drawn(proof.shapes, batch=7)
            objective = begun(proof, whole)
            pairs = [(s.detach()[SHARES[rank]].requires_grad_(), t[SHARES[rank]]) for s, t in whole]
            ids = torch.arange(7)[SHARES[rank]]
            here = value(objective, pairs, count=7 / 2, ids=ids, targets=ids % 4)
            gradients = torch.autograd.grad(here, [student for student, _ in pairs])
            found[proof.name] = (here.detach(), gradients)
    for loss in OF_BATCHES:
        share = {name: tensor.detach()[SHARES[rank]] for name, tensor in made(7).items() if tensor is not None}
        share["student_logits"].requires_grad_()
        here = total(loss, {**share, "mask": None}, 7 / 2)
        found[loss.name] = (here.detach(), [gradient(here, share)])
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
