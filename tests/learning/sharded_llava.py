"""One of two ranks that train a small LLaVA in parts; rank 1 has no image. Arguments: rank, file to meet at."""

import copy
import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional

from kdrun.domains.vision_language.networks.llava import Llava
from kdrun.learning.sharding import each_rank_alone, gather, keep_gathered, shard, units

V, IMAGE, PLACES = 41, 4, 9
ROWS = ([[1, *[IMAGE] * PLACES, 7, 8, 9], [1, *[IMAGE] * PLACES, 5, 6, 7]], [[1, 10, 11, 12], [1, 13, 14, 15]])


def batch(rank):
    ids = torch.tensor(ROWS[rank])
    images = torch.randn(2, PLACES, 448, generator=torch.Generator().manual_seed(5)).relu()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_features": None if rank else images}


def loss(network, rank, way):
    inputs = batch(rank)
    logits = network(**inputs) if way == "forward" else functional.linear(*network.hidden(**inputs))
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["input_ids"][:, 1:].flatten())


def train(rank, way):
    torch.manual_seed(0)
    data = {"vocabulary": V, "pad": 0, "bos": 1, "eos": 2, "image_token": IMAGE, "image_tokens": PLACES}
    plain = Llava(**data, image_size=96, max_length=64, width=16, layers=2, heads=2)
    sharded, whole = copy.deepcopy(plain), copy.deepcopy(plain)
    assert [type(part).__name__ for part in units(sharded)] == ["LlamaDecoderLayer"] * 2
    shard(sharded, init_device_mesh("cpu", (2,)))
    for parameter in sharded.parameters():
        assert parameter.to_local().numel() <= (parameter.shape[0] + 1) // 2 * parameter[0].numel()
    rates = {"lr": 0.1, "momentum": 0.9}
    ours = torch.optim.SGD([p for p in sharded.parameters() if p.requires_grad], **rates)
    theirs = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], **rates)
    for step in range(3):
        keep_gathered(sharded, step == 0)
        ours.zero_grad()
        theirs.zero_grad()
        value = loss(sharded, rank, way)
        if step == 0:
            names = [name for name, p in sharded.named_parameters() if p.requires_grad]
            asked = [p for p in sharded.parameters() if p.requires_grad]
            with each_rank_alone(sharded):
                found = torch.autograd.grad(value, asked, retain_graph=True, allow_unused=True)
            same = [p for p in plain.parameters() if p.requires_grad]
            expected = torch.autograd.grad(loss(plain, rank, way), same, allow_unused=True)
            for name, one, other in zip(names, found, expected, strict=True):
                assert (one is None) == (other is None), name
                assert one is None or torch.allclose(one, other, atol=1e-6), name
                if rank == 1 and "projector" in name:
                    assert one is None or not one.count_nonzero(), name
        value.backward()
        ((loss(plain, 0, way) + loss(plain, 1, way)) / 2).backward()
        torch.nn.utils.clip_grad_norm_(sharded.parameters(), 0.5)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        ours.step()
        theirs.step()
    gather(sharded, whole)
    for (name, one), other in zip(whole.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name
    inputs = batch(rank)
    for _ in range(1 + 2 * rank):  # the ranks generate a different number of times
        whole.eval().generate(**inputs, max_new=3 + rank)


number = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=number, world_size=2)
for called in ("forward", "hidden"):
    train(number, called)
distributed.barrier()
print("fine")
