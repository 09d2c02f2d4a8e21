"""Tasks one after another: which samples a stage has, what holds a network back, and what is told of what it forgot."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

import kdrun
from kdrun.data.transfer import Training, of_classes
from kdrun.domains.images.module import image_module
from kdrun.domains.images.source import Images
from kdrun.domains.task import Prediction
from kdrun.job.compose import compose
from kdrun.networks.weights import save_state
from kdrun.objectives.ewc import Ewc
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.score_matrix import transfer_of
from kdrun.strategies.cast import Cast
from kdrun.strategies.continual import Continual
from kdrun.strategies.task_sequence import divided, name_of
from kdrun.strategies.unused import StageCollector

WORDS = ("data=digits", "student=mlp_8", "strategy=continual", "trainer.epochs=2", "tracker=none", "card=false")


def images(classes=4, each=30, seed=0):
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), each)
    x = random.integers(256, size=(len(y), 1, 4, 4), dtype=np.uint8)
    split = np.tile(np.array([0, 0, 0, 1, 2], np.int8), len(y) // 5)
    return Images(x, y, split, np.arange(len(y)), tuple(map(str, range(classes))), "squares", "hash")


def config(**subset):
    keys = {"classes": [], "replay": [], "replay_bytes": 0, **subset}
    limits = {"train": None, "val": None, "test": None}
    common = {"name": None, "view": None, "split_seed": 0, "val_fraction": 0.1, "test_fraction": 0.2, "limit": limits}
    common |= {"labelled": None, "unlabelled": None, "labelled_share": None, "label_noise": 0.0, "long_tail": None}
    return {**common, "augment": {}, "normalize": {"mean": [0.5], "std": [0.25]}, "restrict": keys}


# samples


def test_a_task_has_the_samples_of_its_classes_in_all_splits_and_all_outputs():
    module = image_module(images(), config(classes=[1, 3]))
    for split, count in (("train", 36), ("val", 12), ("test", 12)):
        assert set(module.raw_targets(split).tolist()) == {1, 3} and len(module.samples(split).ids) == count
    assert module.spec.outputs == 4


def test_what_a_stage_trains_and_chooses_on_does_not_depend_on_samples_of_other_tasks():
    """Old inputs may be anything: nothing of them is read."""
    source, keys = images(), config(classes=[2, 3])
    spoiled = source.x.copy()
    spoiled[source.y < 2] = np.random.default_rng(1).integers(256, size=spoiled[source.y < 2].shape)
    other = Images(spoiled, source.y, source.split, source.ids, source.classes, source.name, source.source_hash)
    for split in ("train", "val", "test"):
        batches = [list(image_module(each, keys).eval_loader(split, 16)) for each in (source, other)]
        assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(*batches, strict=True))


def test_a_memory_has_equal_parts_of_old_classes_and_keeps_what_it_had():
    source = images()
    sample = 16 + source.y[0].nbytes
    split = source.split
    of_one, of_three = (
        np.flatnonzero(of_classes(Training(source, split), config(**keys)["restrict"]).split == 0)
        for keys in (
            {"classes": [3], "replay": [0], "replay_bytes": 12 * sample + 5},
            {"classes": [3], "replay": [0, 1, 2], "replay_bytes": 12 * sample + 5},
        )
    )
    assert np.bincount(source.y[of_one]).tolist() == [12, 0, 0, 18]
    assert np.bincount(source.y[of_three]).tolist() == [4, 4, 4, 18]
    assert set(of_three[source.y[of_three] == 0]) <= set(of_one)
    assert not np.any(split[of_three] != 0)  # of training samples alone


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        ({"classes": [4]}, "no class 4; its 4 classes are 0 to 3"),
        ({"classes": [1], "replay": [1], "replay_bytes": 1}, "class 1 is among the classes that are used anyway"),
        ({"classes": [1], "replay": [0, 2], "replay_bytes": 40}, "no room for one sample of each class that is kept"),
    ],
)
def test_classes_that_are_not_there_are_refused(keys, lines):
    with pytest.raises(UserError, match=lines):
        image_module(images(), config(**keys))


def test_classes_are_divided_evenly_in_order_or_by_a_seed():
    known = {"classes": 10, "types": None}
    assert divided(4, "classes", known, None) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert len(divided(None, "classes", known, None)) == 5
    shuffled = divided(5, "classes", known, 1)
    assert sorted(number for group in shuffled for number in group) == list(range(10))
    assert shuffled == divided(5, "classes", known, 1) != divided(5, "classes", known, None)


def test_tasks_may_name_classes():
    known = {"classes": 4, "names": ["bird", "cat", "dog", "fish"], "types": None}
    assert divided([["fish", "cat"], ["dog"]], "classes", known, None) == [[3, 1], [2]]
    with pytest.raises(UserError, match="no 'cats'; closest: cat") as told:
        divided([["fish", "cats"], ["dog"]], "classes", known, None)
    assert told.value.lines[1] == "there are: bird, cat, dog, fish"


@pytest.mark.parametrize(
    ("tasks", "lines"),
    [
        ("[{vieww: blurred},{view: edges}]", "digits has no parameter 'vieww'; closest: strategy.tasks.0.view"),
        (
            "[{view: edges},{split_seed: x}]",
            r"strategy.tasks.1.split_seed .*expected a whole number of at least 0, got 'x'",
        ),
    ],
)
def test_keys_of_data_in_which_tasks_differ_are_checked_as_data_are(tasks, lines):
    with pytest.raises(UserError, match=lines):
        compose([*WORDS, f"strategy.tasks={tasks}"])


def test_paths_in_which_tasks_differ_are_those_of_the_folder_that_the_command_is_typed_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in WORDS if word != "data=digits"]
    cell = compose([*words, "data=image_folder", "strategy.tasks=[{root: x/a},{root: x/b}]"]).cells[0]
    assert cell["strategy"]["tasks"] == [{"root": str(tmp_path / "x" / name)} for name in "ab"]
    assert cell["data"]["root"] == str(tmp_path / "x" / "a"), "what every task has is not asked for"
    assert [name_of(n, keys) for n, keys in enumerate(cell["strategy"]["tasks"], 1)] == ["task 1 (a)", "task 2 (b)"]
    with pytest.raises(UserError, match=r"data\.root .*a value is required"):
        compose([*words, "data=image_folder", "strategy.tasks=[{root: x/a},{view: grey}]"])


def test_types_of_questions_are_a_task_each_unless_a_number_or_lists_are_given():
    known = {"classes": None, "types": ["a", "b", "c"]}
    assert divided(None, "types", known, None) == [["a"], ["b"], ["c"]]
    assert divided(2, "types", known, None) == [["a", "b"], ["c"]]
    with pytest.raises(UserError, match="no 'd'"):
        divided([["a"], ["d"]], "types", known, None)


# stages


def asked(strategy, *words, control=None):
    cast, lab = Cast(compose([*WORDS, *words]).cells[0]), StageCollector()
    strategy.control(control, lab, cast) if control else strategy.run(lab, cast)
    return lab.stages


def test_each_task_begins_with_the_network_before_and_has_its_classes_alone():
    stages = asked(Continual(tasks=[[0, 1], [2, 3], [4]], method="fine_tuning"))
    assert [stage.role for stage in stages] == ["student_task1", "student_task2", "student_task3"]
    assert [stage.data["restrict"]["classes"] for stage in stages] == [[0, 1], [2, 3], [4]]
    assert [stage.start and stage.start.stage.role for stage in stages] == [None, "student_task1", "student_task2"]
    assert all(set(stage.objective) == {"ce"} and stage.teacher is None for stage in stages)


def test_the_network_before_teaches_over_the_classes_it_has_learned():
    _, second, third = asked(Continual(tasks=[[0, 1], [2, 3], [4]], method="lwf"))
    assert second.teacher == second.start and second.objective["kd"]["only"] == [0, 1]
    assert third.objective["kd"]["only"] == [0, 1, 2, 3] and third.teacher.stage.role == "student_task2"


def test_importance_is_measured_after_each_task_and_added_up():
    stages = asked(Continual(tasks=[[0, 1], [2, 3], [4]], method="ewc", ewc_weight=7.0))
    fits, measured = stages[::2], stages[1::2]
    assert [stage.start.stage.role for stage in measured] == ["student_task1", "student_task2"]
    assert measured[0].before is None and measured[1].before.stage == measured[0]
    assert [stage.importance and stage.importance.stage for stage in fits] == [None, *measured]
    assert fits[1].objective["ewc"] == {"weight": 7.0} and "ewc" not in fits[0].objective
    assert [stage.data["restrict"]["classes"] for stage in measured] == [[0, 1], [2, 3]]


def test_without_weight_every_method_is_fine_tuning():
    tasks = [[0, 1], [2, 3]]
    plain = asked(Continual(tasks=tasks, method="fine_tuning"))
    for method, weight in (("lwf", "lwf_weight"), ("ewc", "ewc_weight")):
        assert asked(Continual(tasks=tasks, method=method, **{weight: 0.0})) == plain


def test_where_the_task_is_known_labels_are_over_its_classes():
    stages = asked(Continual(tasks=[[0, 1], [2, 3, 4]], scenario="task", method="ewc"))
    first, measured, second = stages
    assert first.objective["ce"]["only"] == [0, 1] and second.objective["ce"]["only"] == [2, 3, 4]
    assert measured.objective == first.objective and second.data["restrict"]["known"]
    _, replayed = asked(Continual(tasks=[[0, 1], [2, 3, 4]], scenario="task", method="replay"))
    assert "only" not in replayed.objective["ce"] and replayed.data["restrict"]["replay"] == [0, 1]


def test_classes_that_the_data_lack_are_told_before_anything_is_trained():
    class Lab(StageCollector):
        def known_of(self, data):
            return {"classes": 10, "normalize": None}

    cast, lab = Cast(compose([*WORDS]).cells[0]), Lab()
    with pytest.raises(UserError, match="no class 12; they have 10"):
        Continual(tasks=[[0, 1], [2, 12]]).run(lab, cast)
    with pytest.raises(UserError, match="10 classes, and each task needs at least one"):
        Continual(tasks=11).run(lab, cast)
    assert not lab.stages


def test_the_networks_of_a_config_that_do_not_teach_are_refused():
    from kdrun.strategies.unused import refuse_unused

    with pytest.raises(UserError, match="the network of the task before teaches"):
        refuse_unused([compose([*WORDS, "teacher.seed=3", "teacher.source=online"])])


def test_tasks_may_differ_in_keys_of_data():
    first, second = asked(Continual(tasks=[{"view": "grey"}, {"view": "edges"}]))
    assert (first.data["view"], second.data["view"]) == ("grey", "edges") and second.data["restrict"] is None
    assert "only" not in second.objective["kd"]


def test_classes_are_divided_as_the_data_have_them_also_where_no_stage_has_all(tmp_path):
    words = ("strategy.tasks=3", "strategy.controls=[]", "seeds=1", f"paths.outputs={tmp_path}")
    labels = [stage["label"] for stage in kdrun.plan(*WORDS, *words)["stages"]]
    assert [label for label in labels if "_task" in label] == [f"student_task{n}/seed=0" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"method": "lfw"}, "did you mean 'lwf'|lwf"),
        ({"tasks": 1}, "at least two tasks"),
        ({"tasks": [[0, 1]]}, "at least two tasks"),
        ({"tasks": [[0, 1], [1, 2]]}, "class 1 is there twice"),
        ({"tasks": [[0, 1], ["cat"]]}, "'cat' is not the number of a class"),
        ({"tasks": [[0, 1], {"view": "grey"}]}, "lists of classes or of types of questions, or keys of data"),
        ({"tasks": [{"view": "grey"}, {"view": "edges"}], "method": "replay"}, "parts of one data set"),
        ({"tasks": [[0], [1]], "class_order": 1}, "says which classes"),
        ({"tasks": [{"view": "grey"}, {"view": "edges"}], "scenario": "task"}, "have the same classes"),
        ({"ewc_weight": -1.0}, "at least 0"),
        ({"controls": ["plain_kd"]}, "no control 'plain_kd'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, lines):
    with pytest.raises(UserError, match=lines):
        Continual(**options)


# losses


def test_a_term_may_look_at_some_classes_alone():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
    only = [4, 0, 2]
    objective = build_objective({"kd": {"weight": 1.0, "temperature": 2.0, "only": only}})
    total, _ = objective({"student_logits": student, "teacher_logits": teacher}, 5)
    p, q = (log_softmax(logits[:, only] / 2, 1) for logits in (teacher, student))
    assert torch.allclose(total, 4 * (p.exp() * (p - q)).sum(1).mean(), atol=1e-6)
    total.backward()
    assert torch.equal(student.grad.abs().sum(0) > 0, torch.tensor([True, False, True, False, True, False]))


def test_labels_are_numbered_among_the_classes_that_a_term_looks_at():
    torch.manual_seed(0)
    logits, targets, only = torch.randn(6, 5), torch.tensor([4, 1, 4, 2, 1, 2]), [4, 1, 2]
    objective = build_objective({"ce": {"weight": 1.0, "only": only}})
    total, _ = objective({"student_logits": logits, "targets": targets}, 6)
    expected = cross_entropy(logits[:, only], torch.tensor([only.index(target) for target in targets.tolist()]))
    assert torch.allclose(total, expected)
    with pytest.raises(Exception):  # noqa: B017 - a label of another class is no class: torch says so
        objective({"student_logits": logits, "targets": torch.tensor([0, 1, 4, 2, 1, 2])}, 6)


def test_where_the_task_is_known_metrics_look_at_its_classes_alone():
    task = image_module(images(), config(classes=[1, 3], known=True)).task()
    logits, batch = torch.tensor([[9.0, 1.0, 0.0, 0.5], [9.0, 0.0, 8.0, 3.0]]), {"targets": torch.tensor([1, 3])}
    assert task.right(Prediction(logits), batch).tolist() == [True, True]
    assert image_module(images(), config(classes=[1, 3])).task().right(Prediction(logits), batch).tolist() == [
        False,
        False,
    ]
    metrics = task.metrics()
    task.update(metrics, Prediction(logits), batch)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found["accuracy"] == 1.0
    assert math.isclose(found["loss"], float(cross_entropy(logits[:, [1, 3]], torch.tensor([0, 1]))), abs_tol=1e-6)


@pytest.mark.parametrize(
    ("node", "lines"),
    [
        ({"kd": {"only": [1]}}, "at least two classes"),
        ({"kd": {"only": [1, 1]}}, "each once"),
        ({"kd": {"only": "all"}}, "numbers of at least two classes"),
    ],
)
def test_classes_of_a_term_are_checked(node, lines):
    with pytest.raises(UserError, match=lines):
        build_objective(node)


def test_the_penalty_is_half_the_weighted_squared_distance(tmp_path):
    network = nn.Linear(3, 2)
    fisher = {name: torch.rand_like(one) for name, one in network.named_parameters()}
    term = Ewc(network, str(save_state(fisher, tmp_path / "importance.safetensors")))
    before = {name: one.detach().clone() for name, one in network.named_parameters()}
    logits = network(torch.randn(4, 3))
    assert term(logits).tolist() == [0.0] * 4
    with torch.no_grad():
        for one in network.parameters():
            one.add_(torch.randn_like(one))
    value = term(logits)
    expected = sum(
        fisher[name].flatten()[i] * (one.flatten()[i] - before[name].flatten()[i]) ** 2 / 2
        for name, one in network.named_parameters()
        for i in range(one.numel())
    )
    assert value.shape == (4,) and torch.allclose(value, expected.expand(4))
    value.mean().backward()
    for name, one in network.named_parameters():
        assert torch.allclose(one.grad, fisher[name] * (one.detach() - before[name]), atol=1e-6)
    assert not list(term.parameters()) and not term.state_dict()


def test_importance_is_the_mean_of_squared_gradients_of_single_samples():
    from kdrun.learning.importance import fisher_diagonal

    module = image_module(images(), config(classes=[0, 1]))
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    objective = build_objective({"ce": {"weight": 1.0}})
    found, count = fisher_diagonal(network, module, module.task(), objective, 12)
    batches = list(module.eval_loader("train", 1))[:: len(module.samples("train").ids) // 12][:12]
    slow = {name: torch.zeros_like(one) for name, one in network.named_parameters()}
    for batch in batches:
        network.zero_grad()
        cross_entropy(network(batch["inputs"]), batch["targets"]).backward()
        for name, one in network.named_parameters():
            slow[name] += one.grad**2 / 12
    assert count == 12 and all(torch.allclose(found[name], slow[name], atol=1e-7) for name in slow)


# scores


def test_scores_of_a_matrix_by_hand():
    matrix = [[0.1, 0.2, 0.3], [0.9, 0.3, 0.2], [0.5, 0.8, 0.1], [0.6, 0.4, 0.7]]
    found = transfer_of(matrix)
    assert math.isclose(found["average"], (0.6 + 0.4 + 0.7) / 3)
    assert math.isclose(found["forgetting"], ((0.9 - 0.6) + (0.8 - 0.4)) / 2)
    assert math.isclose(found["backward_transfer"], ((0.6 - 0.9) + (0.4 - 0.8)) / 2)
    assert math.isclose(found["forward_transfer"], ((0.3 - 0.2) + (0.1 - 0.3)) / 2)


def test_where_less_is_better_forgetting_is_still_worse():
    found = transfer_of([[5.0, 5.0], [1.0, 4.0], [3.0, 1.0]], "min")
    assert found == {"average": 2.0, "forgetting": 2.0, "backward_transfer": -2.0, "forward_transfer": 1.0}


def test_networks_that_were_not_looked_at_after_each_task_have_an_average_alone():
    assert set(transfer_of([[0.1, 0.1], [0.5, 0.7]])) == {"average"}


# a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continual")
    words = ["strategy.tasks=[[0,1],[2,3],[4,5]]", "strategy.method=ewc", "strategy.ewc_weight=5", "seed=0"]
    words += ["strategy.controls=[alone,fine_tuning,lwf]", "strategy.fisher_samples=20", "data.limit.train=100"]
    return kdrun.run(*WORDS, *words, f"paths.outputs={folder}")


def test_a_result_has_a_part_for_each_task_and_the_whole_matrix(run):
    record = run.record
    stages = [stage for stage in record["stages"] if stage.get("matrix")]
    assert {stage["role"] for stage in stages} == {"student", "alone", "fine_tuning", "lwf"}
    for stage in stages:
        matrix = stage["matrix"]
        assert [task["name"] for task in stage["tasks"]] == matrix["columns"] == ["task 1", "task 2", "task 3"]
        accuracy = matrix["metrics"]["accuracy"]
        assert len(accuracy) == len(matrix["rows"]) == (2 if stage["role"] == "alone" else 4)
        assert math.isclose(stage["test"]["best"]["accuracy"], sum(accuracy[-1]) / 3)
        assert [task["test"]["best"]["accuracy"] for task in stage["tasks"]] == accuracy[-1]


def test_the_diagonal_is_what_each_stage_reached_on_its_own_test_set(run):
    stages = run.record["stages"]
    (matrix,) = [s["matrix"] for s in stages if s["role"] == "fine_tuning"]
    own = {s["role"]: s["test"]["best"].get("accuracy") for s in stages}
    reached = [own.get(f"fine_tuning_task{t}", own.get(f"student_task{t}")) for t in (1, 2, 3)]
    assert [matrix["metrics"]["accuracy"][t][t - 1] for t in (1, 2, 3)] == reached


def test_the_weights_of_a_result_are_those_after_the_last_task(run):
    stages = run.record["stages"]
    (result,) = [s for s in stages if s["role"] == "fine_tuning"]
    (last,) = [s for s in stages if s["role"] == "fine_tuning_task3"]
    assert result["start"] == last["fingerprint"]
    weights = [Path(stage["path"], "best.safetensors").read_bytes() for stage in (result, last)]
    assert weights[0] == weights[1]


def test_summary_has_scores_over_seeds_of_each_arm(run):
    arms = run.record["summary"]["arms"]
    assert set(arms["student"]["transfer"]) >= {"forgetting", "backward_transfer", "forward_transfer", "matrix"}
    assert "forgetting" not in arms["alone"]["transfer"]
    assert run.record["summary"]["compared_with"] == "fine_tuning"
    assert set(arms["student"]["several"]) == {"task 1", "task 2", "task 3"}


def test_the_matrix_is_drawn_and_shown(run):
    from kdrun.plots.tasks import task_panels
    from kdrun.report.parts import part_tables

    panels = task_panels(run.record)
    assert [panel.name for panel in panels] == [f"tasks_{arm}" for arm in ("fine_tuning", "lwf", "student")]
    tables = {table.caption: table for table in part_tables(run.record)}
    (matrix,) = [table for caption, table in tables.items() if "of each task, after each" in caption]
    assert [row[0] for row in matrix.rows] == ["before", "after task 1", "after task 2", "after task 3"]
