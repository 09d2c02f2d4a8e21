"""Nodes with `_target_` in one form, whether defaults are written out or not: what a hash of a config is made from."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kdrun import kinds, losses
from kdrun.moved import current, original
from kdrun.problems import UserError
from kdrun.signatures import LASTING
from kdrun.targets import RESERVED, signature

WRITTEN: Mapping[str, str] = {
    "torch.optim.AdamW": "lr weight_decay",
    "kdrun.domains.vision_language.networks.llava.Llava": "heads layers width",
    "kdrun.domains.ct.networks.slicewise.Slicewise": "context pool",
    "kdrun.domains.ct.networks.se_resnet.SEResNet": "blocks norm widths",
    "kdrun.networks.resnet.ResNet": "depth width",
    "kdrun.domains.vision_language.networks.llava_checkpoint.llava_checkpoint": "dtype lora path",
    "kdrun.domains.translation.networks.transformer.Transformer": "decoder_layers dropout encoder_layers feedforward heads share width",
    "kdrun.domains.translation.networks.seq2seq.HuggingFaceSeq2Seq": "config model",
    "kdrun.networks.by_name.transformers_image_classifier": "config path",
    "kdrun.networks.cnn.CNN": "widths",
    "kdrun.objectives.vocabulary_ce_kd.vocabulary_ce_kd": "beta ce chunk kd kind memory_mb temperature",
    "kdrun.objectives.ce.ce": "label_smoothing",
    "kdrun.objectives.kd_visual.kd_visual": "temperature",
    "kdrun.objectives.relation.relation": "center normalize of",
    "kdrun.objectives.jsd.jsd": "beta temperature",
    "kdrun.objectives.feature.feature": "norm",
    "kdrun.objectives.kl_reverse.kl_reverse": "temperature",
    "kdrun.objectives.kd_topk.kd_topk": "k",
    "kdrun.objectives.kd.kd": "temperature",
    "kdrun.domains.vision_language.vqa_files.textvqa": "file images limit_broken part size",
    "kdrun.domains.ct.shipped.ct_synthetic.ct_synthetic": "depth echo scans seed signal size strength test train val window",
    "kdrun.domains.vision_language.shipped.shapes_vqa.shapes_vqa": "further part seed size test together val",
    "kdrun.domains.translation.shipped.corpora.wmt23_en_cs": "direction lowercase max_ratio max_words min_words",
    "kdrun.domains.vision_language.shipped.emoji_vqa.emoji_vqa": "further part per_image root seed size test together train val",
    "kdrun.domains.vision_language.vqa_files.scienceqa": "file images limit_broken only_images part size",
    "kdrun.domains.ct.shipped.ct_patches.ct_patches": "seed test train val window",
    "kdrun.domains.images.shipped.cifar.cifar10": "root",
    "kdrun.domains.translation.shipped.ui_de_en.ui_de_en": "direction domain root",
    "kdrun.domains.vision_language.llava_json.llava_json": "captions captions_images images limit_broken part size test_file tests val_file",
    "kdrun.domains.translation.shipped.corpora.wmt17_en_de": "direction lowercase max_ratio max_words min_words",
    "kdrun.domains.translation.shipped.corpora.iwslt14_de_en": "direction lowercase max_ratio max_words min_words val_every",
    "kdrun.domains.images.image_folder.image_folder": "grey size",
    "kdrun.domains.translation.parallel_text.parallel_text": "columns lowercase max_ratio max_words min_words msgstr_language source_language target "
    "target_language test_source test_target val_source val_target",
    "kdrun.domains.vision_language.vqa_files.gqa": "file images limit_broken part size",
    "kdrun.domains.vision_language.vqa_files.pope": "files images limit_broken part size",
    "kdrun.domains.vision_language.vqa_files.mme": "limit_broken part size",
    "kdrun.domains.ct.ct_folder.ct_folder": "fraction incomplete labels size slices spacing window",
    "kdrun.domains.images.shipped.cifar.cifar100": "coarse root",
    "kdrun.strategies.alone.Alone": "controls",
    "kdrun.strategies.born_again.BornAgain": "controls generations",
    "kdrun.strategies.cascaded.Cascaded": "controls drop epochs order scheme sft sft_epochs stages_per_teacher teachers",
    "kdrun.strategies.clustered.Clustered": "aggregation alpha backward_epochs clients clustering controls encoding engine eval_every "
    "faults first_epochs forward_epochs "
    "minimum participation partition public recluster rounds server_epochs shift smooth smooth_grad smooth_noise target temperature "
    "threshold top_k trim",
    "kdrun.strategies.compress.Compress": "controls importance order ratio tune_epochs tune_rate",
    "kdrun.strategies.continual.Continual": "class_order controls ewc_weight fisher_samples lwf_weight method replay_bytes scenario tasks temperature",
    "kdrun.strategies.cross_window.CrossWindow": "controls epochs feature_norm over stack teacher transfer views weight",
    "kdrun.strategies.elastic.Elastic": "controls cost router router_loss router_rate sampling widths",
    "kdrun.strategies.energy_gated.EnergyGated": "aggregation alpha backward_epochs backward_weight beta clients controls directions energy "
    "energy_norm engine eval_every faults "
    "first_round forward_epochs forward_weight gate gate_grad minimum order participation partition rounds shift statistics "
    "temperature trim",
    "kdrun.strategies.evolving.Evolving": "controls epochs order start",
    "kdrun.strategies.federated.Baseline": "aggregation alpha backward_epochs clients controls engine eval_every faults "
    "forward_epochs method minimum options participation "
    "partition rounds shift trim",
    "kdrun.strategies.grpo.GRPO": "average clip controls epochs group kl lr start temperature updates",
    "kdrun.strategies.guided_on_policy.GuidedOnPolicy": "clip controls epochs group guidance hint kl lr reward_epochs reward_lr rewards temperature updates",
    "kdrun.strategies.mean_teacher.MeanTeacher": "controls decay",
    "kdrun.strategies.mutual.Mutual": "controls peers",
    "kdrun.strategies.on_policy.OnPolicy": "controls raised_by student_share teacher_mix temperature",
    "kdrun.strategies.sequence_kd.SequenceKD": "beam controls length_penalty",
    "kdrun.strategies.takd.Takd": "controls",
    "kdrun.strategies.teacher_ensemble.TeacherEnsemble": "controls teachers",
    "kdrun.strategies.vanilla.Vanilla": "controls",
}
"""Target -> its arguments whose defaults the options that come with kdrun wrote out when the first jobs were hashed. These are
written out in every hash, all other defaults in none, so that hashes of old records stay. A new argument is not added here."""

ADDED_TO_TARGETS = {
    "data.columns": None,
    "data.msgstr_language": None,
    "data.subset": None,  # as data.restrict was called in its first records
}
"""Options of sources that came after jobs had been hashed, with the value for which a hash leaves them out."""

FORMER_DEFAULTS = {("kdrun.strategies.continual.Continual", "classes"): {"tasks": 5}}
"""(strategy, what its data are divided by (Domain.divided)) -> options whose default null is hashed as the former default, which means the same."""

STRATEGIES = "kdrun.strategies."

MISSING = object()


def canonical(node: Any, numbers: bool = False, task: str | None = None) -> Any:
    """A copy of a tree in which every node with `_target_` has those defaults, and only those, that WRITTEN names.

    numbers: 4 is 4.0 where a number with a fraction is due. task: the kind of data that networks are given arguments by; where
    those are left out, it is not their default that is meant. Nodes whose signature is not known stay as they are.
    """
    if isinstance(node, list):
        return [canonical(item, numbers, task) for item in node]
    if not isinstance(node, Mapping):
        return node
    tree = {name: canonical(value, numbers, task) for name, value in node.items()}
    if "_target_" in tree:
        target = str(tree["_target_"])
        tree = {**_defaults(tree, current(target), numbers, task), "_target_": original(target)}
    return tree


def canonical_objective(objective: Mapping[str, Any], numbers: bool = False) -> dict[str, Any]:
    """As `canonical`, of terms, whose `_target_` is that of their name where they have none. Settings with their default are left out."""
    result = {}
    for name, term in objective.items():
        own = f"{losses.HOME}.{name}.{name}"
        if losses.former(own) is None:
            own, _ = losses.resolve(name, {})
        term = {key: value for key, value in term.items() if losses.SETTINGS.get(key, MISSING) != value}
        tree = canonical({"_target_": own, **term}, numbers)
        if "feature" in objective and name == "ce" and tree.get("label_smoothing") == 0:
            del tree["label_smoothing"]  # objective=cross_window is the one option that did not write it out
        result[name] = {key: value for key, value in tree.items() if key != "_target_" or value != own}
    return result


def strategy_options(node: Any) -> Any:
    """A strategy's node with every option of its class, so that a config and its record hold what a file leaves out. Those of
    classes of the user's own stay as they are."""
    target = str(node.get("_target_")) if isinstance(node, dict) else ""
    if not target.startswith(STRATEGIES):
        return node
    try:
        known = signature(target)
    except UserError:  # the check says which names there are
        return node
    options = {name: _literal(parameter.default) for name, parameter in known.parameters.items()} if known else {}
    return {"_target_": target, **{name: value for name, value in options.items() if value is not MISSING}, **node}


def _defaults(node: dict[str, Any], target: str, numbers: bool, task: str | None) -> dict[str, Any]:
    written, supplied = WRITTEN.get(target, "").split(), {*kinds.supplied(task), "cache"}
    for name, (default, is_float) in _parameters(target).items():
        if name in RESERVED or name in supplied:
            continue
        if numbers and is_float and type(node.get(name)) is int:
            node[name] = float(node[name])
        if default is MISSING:
            continue
        if name in written:
            node.setdefault(name, default)
        elif name in node and _same(node[name], default):
            del node[name]
    return node


def _parameters(target: str) -> Mapping[str, tuple[Any, bool]]:
    return _lasting_parameters(target) if target.startswith(LASTING) else _read_parameters(target)


def _read_parameters(target: str) -> dict[str, tuple[Any, bool]]:
    """Name of each parameter of a target -> (default, MISSING where there is none; whether it is a number with a fraction)."""
    if (former := losses.former(target)) is not None:
        return {name: (default, isinstance(default, float)) for name, default in former.options.items()}
    try:
        known = signature(target)
    except UserError:  # of a record whose code is gone
        return {}
    parameters = {} if known is None else known.parameters
    return {name: (_literal(one.default), _is_float(one.annotation)) for name, one in parameters.items()}


_lasting_parameters = lru_cache(maxsize=None)(_read_parameters)


def _literal(text: str | None) -> Any:
    """The value of a default in plain types, MISSING where it is none or not a plain value."""
    if text in ("list()", "dict()"):
        return [] if text == "list()" else {}
    try:
        value = ast.literal_eval(text or "")
    except (ValueError, SyntaxError):
        return MISSING
    return list(value) if isinstance(value, tuple) else value


def _same(one: Any, other: Any) -> bool:
    """Equal, and not just as True is 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _is_float(annotation: ast.expr | None) -> bool:
    return annotation is not None and "float" in ast.unparse(annotation).replace("|", " ").split()
