"""Every shipped objective of classification with a short pair of networks that has what it compares, and a step's gradients with it.

As a script one of two ranks: python shipped.py RANK FOLDER NAME... writes values and gradients for its half of the batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from kdrun.domains.load import load_data
from kdrun.learning import topk
from kdrun.learning.backend import Backend
from kdrun.learning.microbatches import micro_batches
from kdrun.learning.step import compared
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.wiring import capture_of, of_data, reuse_classifier, shapes_of, wire
from kdrun.networks.build import build_network
from kdrun.objectives.terms import Objective, build_objective
from kdrun.term_weights import Length

if __package__:
    from .stages import cell
else:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from learning.stages import cell

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "objective"
NODES = {path.stem: yaml.safe_load(path.read_text()) or {} for path in sorted(FOLDER.glob("*.yaml"))}
OTHER_TASKS = ("bce", "bce_kd", "margin_mse", "mse", "mse_kd", "llava", "word_kd", "word_kd_topk", "word_kd_vocabulary")
"""Of regression, of reranking, of text that is generated: tests of their domains."""
NAMES = sorted(set(NODES) - set(OTHER_TASKS))
SAMPLES = 12

RESNETS = ("teacher=resnet14", "student=resnet8_w4", "data.limit.train=128")
WIDTHS = {"teacher": 16, "student": 8}
VIT = "{hidden_size: %d, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16, patch_size: 4, num_channels: 1}"
BERT = "{model_type: bert, hidden_size: %d, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 16}"
WORDS: dict[str, list[str]] = {
    name: [
        f"{who}.network={{_target_: kdrun.networks.by_name.transformers_image_classifier, "
        f"architecture: ViTForImageClassification, config: {VIT % width}}}"
        for who, width in WIDTHS.items()
    ]
    for name in ("minilm", "tinybert")
}
WORDS["simkd"] = [
    "student.network={_target_: kdrun.networks.reused_classifier.ReusedClassifier, maps: stage3, width: 64, network: "
    "{_target_: kdrun.networks.resnet.ResNet, depth: 8, width: 4, in_channels: 1, image_size: 8}}"
]
WORDS |= {name: ["student=spiking_resnet8"] for name in ("kdsnn", "seal", "step_ce", "step_kd", "temporal_decoupling")}
WORDS |= {
    name: ["student=deit_tiny", "student.network.depth=2", "student.network.width=24"]
    for name in ("deit_hard", "deit_soft")
}
WORDS["mlkd_strong"] = ["data.augment.strong={cutout: {length: 3}}"]
for text in ("minilm_text", "tinybert_text"):
    WORDS[text] = ["data=made_topics", "data.tokens.vocabulary=400", "data.samples=200"] + [
        f"{who}.network={{_target_: kdrun.domains.text.networks.encoder.HuggingFaceEncoder, config: {BERT % width}}}"
        for who, width in WIDTHS.items()
    ]
for name in ("minilm", "minilm_text"):
    WORDS[name].append("objective.attention_relations.heads=4")
for name in ("tinybert", "tinybert_text"):
    WORDS[name].append("objective.attention_scores.heads=2")


WORDS |= {name: ["data=diabetes", "teacher=mlp_64", "student=mlp_8"] for name in ("mse", "mse_kd")}
WORDS |= {
    name: ["model=lm_small", "student=lm_w32", "teacher=lm_w64", "data=made_corpus"]
    for name in ("word_kd", "word_kd_topk", "word_kd_vocabulary")
}
EVERY = sorted({*NAMES, *WORDS})
"""With regression and text that is generated."""


def config_of(name: str) -> dict[str, Any]:
    """A job's config with the objective."""
    if name in WORDS:
        return cell(*RESNETS, f"objective={name}", *WORDS[name])
    return {**cell(*RESNETS), "objective": NODES[name]}  # what composing it gives, in no time


@lru_cache
def data_of(name: str) -> tuple[Any, dict[str, Any]]:
    """(data module, a batch) of the words of an objective."""
    if name and not any(word.startswith("data") for word in WORDS.get(name, ())):
        return data_of("")
    config = config_of(name) if name else cell(*RESNETS)
    module = load_data(config["data"], config["paths"])
    return module, next(iter(module.train_loader(SAMPLES, 0)))


@dataclass
class Assembled:
    """What a stage with an objective trains, on the batch of data_of. teacher: None where no term needs one. top: how many of its
    likeliest classes it tells; None: all."""

    objective: Objective
    student: nn.Module
    backend: Backend
    teacher: FrozenTeacher | None
    batch: dict[str, Any]
    top: int | None = None

    def of(self, parts: Sequence[dict[str, Any]], count: Any = None, taught: Any = None) -> tuple[Tensor, Tensor]:
        """(raw values of terms that have weight, added over parts; gradients of all that learns, one vector)."""
        learning = [
            *self.student.parameters(),
            *(p for part in self.backend.beside.values() for p in part.parameters()),
        ]
        learning = [parameter for parameter in learning if parameter.requires_grad]
        values: Tensor | float = 0.0
        for parameter in learning:
            parameter.grad = None
        for part in parts:
            source = taught or self.teacher
            source = source if source is None or self.top is None else topk.TopTeacher(source, self.top)
            tensors = compared(self.student, source, self.objective, part, 0, self.backend)
            total, raw = self.objective(tensors, self.backend.count(self.batch) if count is None else count)
            total.backward()
            values = values + torch.stack([value.detach() for value in raw.values()])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
        return values, torch.cat([gradient.flatten() for gradient in gradients])

    def train(self, mode: bool) -> Assembled:
        for part in (self.student, *self.backend.beside.values()):
            part.train(mode)
        return self


def assembled(name: str, training: bool = False) -> Assembled:
    """The same for the same name. training: whether batch normalisation looks at the batch; else a sample has its own values."""
    config, (module, batch) = config_of(name), data_of(name)
    objective, task = build_objective(config["objective"]), module.task()
    task.prepare(objective.wanted)
    student, network = (
        build_network(config[who]["network"], module.spec, seed) for seed, who in enumerate(("student", "teacher"))
    )
    teacher, shapes, widths = None, [], None
    if objective.needs_teacher:
        teacher = FrozenTeacher(network, task, "teacher")
        teacher.capture = capture_of(network, objective, "teacher")
        shapes = [shapes_of(network, objective, "teacher", task, module.spec)]
        reuse_classifier(objective, student, [network])
        if objective.takes("student_features"):
            widths = task.feature_width(student), [task.feature_width(network)]
    ours = shapes_of(student, objective, "student", task, module.spec)
    objective, adaptor = wire(objective, ours, shapes, widths, 0, Length(20, 10), **of_data(module, SAMPLES))
    beside = {"terms": nn.ModuleDict(objective.modules)} if objective.modules else {}
    backend = Backend(task, student, adaptor=adaptor, capture=capture_of(student, objective, "student"), beside=beside)
    top = topk.wanted(config["objective"])
    return Assembled(objective, student, backend, teacher, batch, top).train(training)


def main(rank: int, folder: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for name in names:
        made = assembled(name)
        made.backend.ranks = 2
        found[name] = made.of([micro_batches(made.batch, 2)[rank]])
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
