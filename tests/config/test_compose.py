"""compose(): the frozen cells of a job, and what makes two jobs the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdrun.config.compose import hash_of, split_sweep
from kdrun.config.trees import leaves
from kdrun.job.compose import compose
from kdrun.problems import ConfigProblems, UserError
from kdrun.schema import Root, defaults, irrelevant


def problems(*overrides, conf_dirs=()):
    with pytest.raises(UserError) as caught:
        compose(overrides, conf_dirs)
    return "\n".join(caught.value.lines)


@pytest.fixture
def conf(tmp_path):
    """Write config files by their path below a folder; call without arguments for the folder."""

    def write(path=None, text=""):
        if path:
            file = tmp_path / "conf" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return str(tmp_path / "conf")

    return write


def test_the_default_job_has_all_keys_in_plain_types():
    job = compose()
    assert list(job.config) == list(defaults(Root))
    assert json.loads(json.dumps(job.cells)) == job.cells
    assert job.config["teacher"]["tolerance"] == 0.03
    assert job.config["student"]["name"] == job.choices["student"]
    assert [cell["seed"] for cell in job.cells] == [0, 1, 2] == job.config["seeds"]


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["seed=0"], [0]),
        (["seed=7"], [7]),
        (["seeds=2"], [0, 1]),
        (["seeds=[3,7]"], [3, 7]),
        (["experiment=smoke"], [0]),
        (["experiment=smoke", "seeds=2"], [0, 1]),
    ],
)
def test_seeds(words, seeds):
    job = compose(words)
    assert [cell["seed"] for cell in job.cells] == seeds
    assert all(cell["seeds"] == seeds for cell in job.cells)


def test_a_preset_with_one_seed_gives_way_to_typed_seeds(conf):
    conf("experiment/one.yaml", "# @package _global_\nseed: 4\n")
    assert [cell["seed"] for cell in compose(["experiment=one"], [conf()]).cells] == [4]
    assert [cell["seed"] for cell in compose(["experiment=one", "seeds=2"], [conf()]).cells] == [0, 1]


@pytest.mark.parametrize(
    "word", ["seeds=0", "seeds=[]", "seeds=[1,1]", "seeds=[-1]", "seed=-1", "seed=x", "seed=true", "seed=1.5"]
)
def test_seeds_that_are_none(word):
    assert problems(word).startswith(word)


def test_the_teacher_may_follow_the_students_seed():
    job = compose(["teacher.seed=${seed}", "seeds=[2,5]"])
    assert [cell["teacher"]["seed"] for cell in job.cells] == [2, 5]
    assert [cell["teacher"]["seed"] for cell in compose(["seeds=[2,5]"]).cells] == [0, 0]


def test_what_is_typed_wins_over_family_and_preset(conf):
    conf(
        "experiment/own.yaml",
        "# @package _global_\ndefaults:\n  - override /teacher: resnet32\n  - override /model: mlp_ladder\n",
    )
    dirs = [conf()]
    assert compose(["experiment=own"], dirs).choices["teacher"] == "resnet32"
    assert compose(["experiment=own"], dirs).choices["student"].startswith("mlp")
    typed = compose(["teacher=resnet56", "student=resnet8", "experiment=own", "model=resnet_ladder"], dirs).choices
    assert (typed["teacher"], typed["student"], typed["model"]) == ("resnet56", "resnet8", "resnet_ladder")


def test_relative_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose(["paths.outputs=out", "data=image_folder", "data.root=./pictures"]).config
    assert config["paths"]["outputs"] == str(tmp_path / "out")
    assert config["paths"]["store"] == str(tmp_path / "out" / "store")
    assert config["data"]["root"] == str(tmp_path / "pictures")
    assert os.getcwd() == str(tmp_path)


def test_cache_folder_of_the_environment(monkeypatch):
    monkeypatch.setenv("KDRUN_CACHE", "/somewhere/else")
    assert compose().config["paths"]["cache"] == "/somewhere/else"


def test_a_student_file_needs_nothing_but_its_network(conf):
    conf("student/mine.yaml", "network:\n  _target_: kdrun.networks.resnet.ResNet\n  depth: 14\n")
    student = compose(["student=mine"], [conf()]).config["student"]
    assert student["name"] == "mine" and student["weights"] is None and student["network"]["depth"] == 14


def test_conf_folders_win_over_shipped_options(conf):
    conf("trainer/quick.yaml", "defaults:\n  - optimizer: sgd\nepochs: 2\n")
    assert compose(["trainer=quick"], [conf()]).config["trainer"]["epochs"] == 2


def test_an_edited_file_is_read_again(conf):
    conf("trainer/own.yaml", "epochs: 2\n")
    assert compose(["trainer=own"], [conf()]).config["trainer"]["epochs"] == 2
    time.sleep(0.02)
    conf("trainer/own.yaml", "epochs: 4\n")
    assert compose(["trainer=own"], [conf()]).config["trainer"]["epochs"] == 4


def test_cells_are_not_shared_between_jobs_or_seeds():
    job = compose()
    job.cells[0]["trainer"]["optimizer"]["lr"] = 9.0
    assert job.cells[1]["trainer"]["optimizer"]["lr"] != 9.0
    assert compose().config["trainer"]["optimizer"]["lr"] != 9.0


def test_tags_may_be_written_as_a_list():
    assert (
        compose(["tags=[a,b]"]).config["tags"]
        == {"a": True, "b": True}
        == compose(["tags.a=true", "tags.b=true"]).config["tags"]
    )


def test_mappings_as_wandb_agents_pass_them():
    for text in ("trainer={'epochs': 5, 'optimizer': {'lr': 0.2}}", 'trainer={"epochs": 5, "optimizer": {"lr": 0.2}}'):
        trainer = compose([text]).config["trainer"]
        assert (trainer["epochs"], trainer["optimizer"]["lr"], trainer["optimizer"]["momentum"]) == (5, 0.2, 0.9)


def test_a_key_can_be_taken_away():
    assert list(compose(["~objective.kd"]).config["objective"]) == ["ce"]
    assert "nothing to remove; closest: kd" in problems("~objective.kdd")


def test_a_strategy_has_every_option_of_its_class_whatever_its_file_says(conf):
    conf("strategy/mine.yaml", "_target_: kdrun.strategies.compress.Compress\nratio: 0.25\n")
    mine = compose(["strategy=mine", "name=r-${strategy.tune_rate}"], [conf()])
    assert mine.config["strategy"] == {
        "_target_": "kdrun.strategies.compress.Compress", "controls": [], "order": ["prune", "distill", "quantize"],
        "ratio": 0.25, "importance": "l2", "tune_epochs": None, "tune_rate": 0.1,
    }  # fmt: skip
    assert mine.config["name"] == "r-0.1"
    written = compose(["strategy=compress", "strategy.controls=[]", "strategy.ratio=0.25", "strategy.importance=l2"])
    assert written.hash == mine.hash


def test_agrees_with_hydras_own_composition(tmp_path):
    """Our composition leaves Hydra's own node out by internal functions; the public one, where the options that both learners
    take from `network` are written out as files, has to say the same."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    from kdrun.config.groups import conf_dirs, groups, shipped
    from kdrun.config.hydra import compose_groups
    from kdrun.problems import Problems

    dirs, _ = conf_dirs()
    for learner in ("teacher", "student"):
        (tmp_path / learner).mkdir()
        for name in groups(dirs)["network"]:
            text = f"defaults:\n  - /network@network: {name}\n  - _self_\n\nname: {name}\n"
            (tmp_path / learner / f"{name}.yaml").write_text(text)
    for words in (
        [],
        ["experiment=smoke", "teacher=mlp_64"],
        ["model=mlp_ladder", "~experiment", "trainer/optimizer=adamw"],
    ):
        with initialize_config_dir(shipped(), version_base="1.3"):
            expected = hydra_compose("config", [*words, f"hydra.searchpath=[file://{tmp_path}]"])
        found = compose_groups(words, dirs, groups(dirs), Problems())
        assert found.tree == OmegaConf.to_container(expected, resolve=False)


def test_a_hundred_jobs_read_every_config_file_once(monkeypatch):
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    from kdrun.config import hydra

    for kept in (hydra._compose, hydra._loader):
        kept.cache_clear()
    read, plain = [], FileConfigSource.load_config
    monkeypatch.setattr(
        FileConfigSource, "load_config", lambda self, config_path: read.append(config_path) or plain(self, config_path)
    )
    points = split_sweep(["trainer.optimizer.lr=range(1,26)", "seed=0,1", "student=mlp_8,mlp_16"])
    assert len(points) == 100 and len({compose(point).hash for point in points}) == 100
    assert len(read) == len(set(read)) and hydra._compose.cache_info().misses == 2


@pytest.mark.parametrize(
    ("words", "points"),
    [
        (["seed=0"], [["seed=0"]]),
        (["a=1,2", "b=x,y"], [["a=1", "b=x"], ["a=1", "b=y"], ["a=2", "b=x"], ["a=2", "b=y"]]),
        (["seed=range(0,3)"], [["seed=0"], ["seed=1"], ["seed=2"]]),
        (["strategy=glob(al*)"], [["strategy=alone"]]),
        (["~objective.kd", "a=choice(1,2)"], [["~objective.kd", "a=1"], ["~objective.kd", "a=2"]]),
        (["'tags=[a,b]'".strip("'"), "a=1,2"], [["tags=[a,b]", "a=1"], ["tags=[a,b]", "a=2"]]),
    ],
)
def test_sweeps(words, points):
    assert split_sweep(words) == points


def test_a_sweep_over_nothing_is_refused():
    with pytest.raises(UserError, match="no value fits"):
        split_sweep(["strategy=glob(zz*)"])


# the identity of a job


def test_hashes_of_committed_results_are_still_those_of_their_words():
    """Options that came later change no hash; what is in a table can be made again under the same name."""
    import json
    from pathlib import Path

    for name in ("transfer", "transfer_fashion", "energy_gated", "cross_window", "continual"):
        jobs = json.loads((Path(__file__).parents[2] / "docs" / "results" / name / "table.json").read_text())["jobs"]
        for job in jobs[:2]:
            assert compose(job["overrides"]).hash == job["job_hash"], (name, job["overrides"])


@pytest.mark.parametrize(
    "words",
    [["name=x"], ["tags.a=true"], ["tracker=none"], ["paths.outputs=/x"], ["trainer.checkpoint_seconds=1"], ["trainer.log_every=1"],
     ["student.trainer.log_every=3"], ["targets.mylab=true"], ["card=false"], ["energy.reader=none"],
     ["hardware.deploy.deadline_ms=3", "hardware.deploy.precision=int8"]],
)  # fmt: skip
def test_what_changes_no_result_changes_no_hash(words):
    assert compose(words).hash == compose().hash


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.epochs=31"],
        ["seeds=2"],
        ["teacher.seed=1"],
        ["hardware.threads=2"],
        ["extra.a=1"],
        ["student.trainer.epochs=3"],
    ],
)
def test_what_may_change_a_result_changes_the_hash(words):
    assert compose(words).hash != compose().hash


def test_every_irrelevant_key_has_a_reason():
    assert all(reason.strip() for reason in irrelevant().values())
    assert {"name", "tags", "paths", "tracker"} <= set(irrelevant())


_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
_keys = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
_trees = st.dictionaries(
    _keys,
    st.recursive(
        _values, lambda inner: st.dictionaries(_keys, inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=8
    ),
)


@given(_trees, st.randoms())
def test_the_order_of_keys_does_not_matter(tree, random):
    def shuffled(node):
        if isinstance(node, dict):
            items = list(node.items())
            random.shuffle(items)
            return {key: shuffled(value) for key, value in items}
        return [shuffled(item) for item in node] if isinstance(node, list) else node

    assert hash_of([tree]) == hash_of([shuffled(tree)])


def test_no_shipped_config_has_colliding_dotted_keys():
    """Flattened for a tracker, no two keys may be one: as many dotted keys as leaves, and no dot inside a key."""
    for words in ([], ["experiment=smoke"], ["model=mlp_ladder", "strategy=alone"]):
        flat = list(leaves(compose(words).config))
        assert len(dict(flat)) == len(flat)


def test_the_slug_is_short_and_safe():
    job = compose(["name='a/b c=Ü " + "x" * 300 + "'"])
    assert len(job.slug) < 64 and job.slug.endswith(job.hash[:8])
    assert set(job.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


# mistakes


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("strategyy=cascaded", ["strategyy=cascaded", "closest: strategy", "conf/strategy", "vanilla"]),
        ("model.optimzer.lr=1", ["model.optimzer.lr=1", "closest: trainer.optimizer.lr", "conf/trainer/default.yaml"]),
        ("+trainer.epoch=5", ["+trainer.epoch=5", "closest: trainer.epochs"]),
        ("++student.netwrk.depth=5", ["closest: student.network"]),
        ("foo.bar=1", ["extra.foo.bar=VALUE"]),
        ("trainer.epochs=abc", ["whole number of at least 1", "'abc'"]),
        ("trainer.epochs=true", ["whole number", "true"]),
        ("trainer.epochs=2.0", ["whole number", "2.0"]),
        ("trainer.epochs=0", ["at least 1", "got 0"]),
        ("trainer.epochs=null", ["whole number", "nothing"]),
        ("trainer.ema=nan", ["above 0 and below 1", "nan"]),
        ("trainer.optimizer.lr=1e-4x", ["float", "1e-4x"]),
        ("trainer.optimizer.lr=inf", ["above 0", "inf"]),
        ("trainer.epochs.x=1", ["trainer.epochs is a value"]),
        ("trainer.schedule.milestones=3", ["a list such as"]),
        ("teacher=3", ["no teacher '3'", "all:"]),
        ("teacher=", ["no value", "llava_w16"]),
        ("name=", ["name=null"]),
        ("name=a=b", ["name='a=b'"]),
        ("=3", ["no key"]),
        ("foo bar=3", ["not a key"]),
        ("tags+=[x]", ["tags.x=true"]),
        ("trainer.schedule.milestones+=[3]", ["'trainer.schedule.milestones=[...]'"]),
        ("seed=0,1", ["-m", "seeds=[0,1]"]),
        ("strategy=alone,vanilla", ["-m"]),
        ("experiment=foo", ["no experiment 'foo'", "smoke", "temperature"]),
        ("trainr/optimizer=sgd", ["no group", "closest: trainer/optimizer"]),
        ("network=mlp_8", ["network@student.network=mlp_8"]),
        ("hydra/launcher=submitit_slurm", ["belongs to a sweep", "add -m"]),
        ("hydra.run.dir=x", ["paths.outputs=DIR"]),
        ("hydra.verbose=true", ["does not use"]),
        ("hardware.device=gpu", ["closest: cuda"]),
        ("student.weights=nowhere.safetensors", ["no file", "nowhere.safetensors"]),
        ("extra.x=${student.nam}", ["${student.nam} leads nowhere"]),
        ("objective.kdd.weight=1", ["no objective 'kdd'", "closest: kd"]),
        ("objective.kd.temprature=2", ["closest: objective.kd.temperature"]),
        ("objective.kd.student_logits=2", ["no parameter 'student_logits'"]),
        ("data.augmnt.flip=true", ["closest: data.augment"]),
        ("student.network.dpth=3", ["closest: student.network.depth"]),
        ("student.network.depth=abc", ["int", "'abc'"]),
        ("student.trainer.epoch=2", ["closest: student.trainer.epochs"]),
        ("student.trainer.optimizer.momentun=0", ["closest: student.trainer.optimizer.momentum"]),
        ("strategy.control=[alone]", ["closest: strategy.controls"]),
        ("student.network._target_=os.system", ["refused"]),
        ("student.network._target_=torch.hub.load", ["refused"]),
        ("student.network._target_=mylab.nets.Mine", ["targets.mylab=true"]),
        ("student.network._target_=kdrun.networks.resnet.ResNe", ["closest: ResNet"]),
        ("trainer.optimizer._target_=torch.optim.AdamW", ["'~trainer.optimizer.momentum'", "conf/trainer/optimizer/sgd.yaml, line"]),
        ("student=timm", ["student.network.model_name", "required"]),
        ("teacher=null", ["teacher.network"]),
    ],
)  # fmt: skip
def test_one_mistake(word, said):
    text = problems(word)
    assert all(part in text for part in said), text
    assert len(text.splitlines()) <= 6, text
    assert "Hydra" not in text or "hydra" in word
    assert "+strategyy" not in text


def test_mistakes_are_told_together_on_one_screen():
    words = ["strategyy=x", "trainer.epochs=abc", "teacher=resnet21", "name=a=b", "student=timm", "seed=x"]
    with pytest.raises(ConfigProblems) as caught:
        compose(words)
    assert len(caught.value.problems) == len(words)
    many = [f"trainer.wrong{number}=1" for number in range(60)]
    with pytest.raises(ConfigProblems) as caught:
        compose(many)
    assert len(caught.value.problems) == 60
    assert len(caught.value.lines) <= 22 and "more" in caught.value.lines[-1]


def test_missing_values_are_all_listed_with_what_to_type(conf):
    conf("student/open.yaml", "network:\n  _target_: kdrun.networks.resnet.ResNet\n  depth: ???\n  width: ???\n")
    text = problems("student=open", conf_dirs=[conf()])
    assert "type: student.network.depth=VALUE" in text and "type: student.network.width=VALUE" in text
    assert "conf/student/open.yaml, line 3" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network: [1\nb: 2\n", "bad.yaml, line 3"),
        ("network:\n  _target_: kdrun.networks.resnet.ResNet\n  depth: 8\n  depth: 14\n", "duplicate key depth"),
        ("network:\n  _target_: kdrun.networks.resnet.ResNet\n  depth: ${optim.lrr}\n", "bad.yaml, line 3): ${optim.lrr} leads nowhere"),
        ("network:\n  _target_: kdrun.networks.resnet.ResNet\na.b: 1\n", "may not contain a dot"),
        ("network:\n  _target_: kdrun.networks.resnet.ResNet\n  dpth: 8\n", "bad.yaml, line 4"),
        ("defaults:\n  - /network@network: resnet9\n", "no network 'resnet9'; closest: resnet19"),
        ("trainer:\n  epoch: 3\n", "closest: student.trainer.epochs"),
        ("network: 2024-01-01\n", "mapping"),
    ],
)  # fmt: skip
def test_mistakes_in_files_name_the_file(conf, text, said):
    conf("student/bad.yaml", text if "line 3)" in said else "# bad\n" + text)
    shown = problems("student=bad", conf_dirs=[conf()])
    assert said in shown, shown


def test_an_empty_preset_folder_says_where_to_put_one(conf, tmp_path, monkeypatch):
    from kdrun.config.overrides import read
    from kdrun.problems import Problems

    found = Problems()
    from kdrun.config.groups import ConfDir

    read(["experiment=foo"], {}, [ConfDir(conf(), "--conf")], found)
    assert "none yet" in found.found[0][0] and "experiment/foo.yaml" in found.found[0][1]


def test_no_warning_of_hydra_reaches_the_user(tmp_path):
    done = subprocess.run([sys.executable, "-m", "kdrun", "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_hydras_global_state_is_left_alone():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from kdrun.config.groups import shipped

    compose()
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(shipped(), version_base="1.3"):
        compose()
        assert GlobalHydra.instance().is_initialized()


def test_shipped_files_say_what_they_are():
    from kdrun.config.groups import conf_dirs, groups

    for options in groups(conf_dirs()[0]).values():
        for option in options.values():
            assert 10 < len(option.summary) <= 120, f"{option.shown}: first line is its description"


def test_header_commands_of_presets_compose():
    from kdrun.cli import parse
    from kdrun.config.groups import conf_dirs, groups

    for option in groups(conf_dirs()[0])["experiment"].values():
        lines = [
            line for line in Path(option.file).read_text().splitlines() if line.startswith("#") and "kdrun " in line
        ]
        assert lines, f"{option.shown} lacks its command"
        import shlex

        args = parse(shlex.split(lines[0].partition("kdrun ")[2]))
        for point in split_sweep(args.overrides) if args.multirun else [args.overrides]:
            compose(point)


@pytest.mark.parametrize(
    ("word", "typed"),
    [
        ("trainer.optimizer=adamw", "type trainer/optimizer=adamw"),
        ("trainer.optimizer._target_=adamw", "type trainer/optimizer=adamw"),
        ("student.trainer.optimizer=adam", "type student.trainer.optimizer=adamw"),
        ("objective.kd=0.5", "type objective.kd.weight=0.5"),
        ("objective.loss=kd", "type objective=kd"),
        ("trainer.schedule=cosine", "type trainer.schedule.name=cosine"),
        ("student.network=resnet8", "type student=resnet8"),
        ("data.limit=100", "type data.limit.train=100"),
        ("hardware.deploy=int8", "type hardware.deploy.precision=int8"),
        ("strategy.controls=alone", "'strategy.controls=[alone]'"),
        ("controls=[]", "none: 'strategy.controls=[]'"),
    ],
)  # fmt: skip
def test_one_value_where_a_mapping_or_a_group_is_due_says_what_to_type(word, typed):
    with pytest.raises(UserError) as error:
        compose([word])
    assert typed in "\n".join(error.value.lines)


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        (["trainer.epochs=3"], {"teacher": 3, "llava_w64": 3, "student": 3}),
        (["trainer={epochs: 3}"], {"teacher": 3, "llava_w64": 3, "student": 3}),
        (["trainer.epochs=3", "student.trainer.epochs=2"], {"teacher": 3, "llava_w64": 3, "student": 2}),
        (["student.trainer.epochs=2", "trainer.epochs=3"], {"teacher": 3, "llava_w64": 3, "student": 2}),
        (["trainer.epochs=3", "teacher.trainer={epochs: 5}"], {"teacher": 5, "llava_w64": 3, "student": 3}),
        ([], {"teacher": 8, "llava_w64": 8, "student": 4}),
    ],
)
def test_what_is_typed_for_all_learners_wins_over_what_a_family_says_of_one(words, epochs):
    from kdrun.strategies.cast import Cast

    cast = Cast(compose(["model=llava", *words]).config)
    learners = (cast.teacher, *cast.assistants, cast.student)
    assert {learner.role: learner.trainer["epochs"] for learner in learners} == epochs


@pytest.mark.parametrize("part", ["teacher", "student", "pretrain"])
def test_a_learner_may_name_an_optimizer_of_its_own(part):
    """The name stands for the option's file, and what is typed below it is over that, in any order of other words."""
    job = compose([f"{part}.trainer.optimizer=adamw", f"{part}.trainer.optimizer.lr=0.5", "trainer.optimizer.lr=0.2"])
    written = "{_target_: torch.optim.AdamW, lr: 0.5, weight_decay: 0.01}"
    assert job.config[part]["trainer"]["optimizer"] == {
        "_target_": "torch.optim.AdamW",
        "lr": 0.5,
        "weight_decay": 0.01,
    }
    assert job.hash == compose([f"{part}.trainer.optimizer={written}", "trainer.optimizer.lr=0.2"]).hash
    assert job.config["trainer"]["optimizer"]["_target_"] == "torch.optim.SGD"


def test_names_of_options_are_plain_text_elsewhere():
    assert compose(["+extra.trainer.optimizer=adamw"]).config["extra"] == {"trainer": {"optimizer": "adamw"}}


def test_a_typed_rate_reaches_learners_with_a_rate_of_their_own():
    from kdrun.strategies.cast import Cast

    cast = Cast(compose(["model=llava", "trainer.optimizer.lr=0.5"]).config)
    assert [one.trainer["optimizer"]["lr"] for one in (cast.teacher, cast.student)] == [0.5, 0.5]


def test_settings_that_stay_beside_what_was_said_for_the_run_are_told(tmp_path):
    """The first phase has a length of its own; an experiment's setting of the run does not reach a family's student."""
    (note,) = compose(["model=llava", "trainer.epochs=3"]).notes
    assert (
        note
        == "pretrain.trainer.epochs=4 (conf/model/llava.yaml, line 23) stays beside trainer.epochs=3; to change it: pretrain.trainer.epochs=3"
    )
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntrainer:\n  epochs: 3\n")
    first, _ = compose(["model=llava", "experiment=mine"], [str(tmp_path)]).notes
    assert first.startswith("student.trainer.epochs=4 (conf/model/llava.yaml") and first.endswith(
        "student.trainer.epochs=3"
    )
    assert "experiment/mine.yaml, line 3)" in first
    assert compose(["model=llava"]).notes == [] and compose(["trainer.epochs=3"]).notes == []


ALIKE = [
    (["objective.ce={weight: 0.1, label_smoothing: 0.0}"], []),
    (["~objective.ce.label_smoothing", "~objective.kd.temperature"], []),
    (["objective.ce._target_=kdrun.objectives.ce.ce"], []),
    (["student.network.shortcut=A"], []),
    (["trainer.optimizer.dampening=0"], []),
    (["trainer/optimizer=adamw", "trainer.optimizer.betas=[0.9,0.999]"], ["trainer/optimizer=adamw"]),
    (["trainer.optimizer={_target_: torch.optim.AdamW}"], ["trainer/optimizer=adamw"]),
    (["strategy={_target_: kdrun.strategies.evolving.Evolving}"], ["strategy=evolving", "strategy.controls=[]"]),
    (["data.augment.views=1"], []),
]


@pytest.mark.parametrize(("words", "others"), ALIKE)
def test_a_default_that_is_written_out_changes_no_hash_and_no_fingerprint(words, others, tmp_path):
    one, other = compose([*words, "seed=0"]), compose([*others, "seed=0"])
    assert one.hash == other.hash
    assert _stage_parts(one) == _stage_parts(other)


@pytest.mark.parametrize(
    "words",
    [["objective.kd.temperature=3"], ["objective.ce.label_smoothing=0.1"], ["trainer.optimizer.dampening=0.1"], ["student.network.in_channels=1"],
     ["student.trainer.optimizer={_target_: torch.optim.SGD, momentum: 0.0}"], ["student.network.shortcut=B"]],
)  # fmt: skip
def test_what_is_no_default_changes_both(words):
    """So does an argument that the data supply, and a learner's own default, which takes the place of the run's setting."""
    one, other = compose([*words, "seed=0"]), compose(["seed=0"])
    assert one.hash != other.hash and _stage_parts(one) != _stage_parts(other)


def test_numbers_and_terms_without_weight_in_a_fingerprint():
    parts = [
        _stage_parts(compose([word, "seed=0"]))
        for word in ("objective.kd.temperature=4", "objective.kd.temperature=4.0")
    ]
    assert parts[0] == parts[1]
    off = [
        _stage_parts(compose(["objective.kd.weight=0", f"objective.kd.temperature={value}", "seed=0"]))
        for value in (2, 3)
    ]
    assert off[0] == off[1]


def _stage_parts(job):
    """The fingerprint's parts of all stages, without reading data or code."""
    from types import SimpleNamespace

    from kdrun.lab.fingerprint import ADDED
    from kdrun.strategies.unused import stages_of

    sources = SimpleNamespace(versions=lambda roots: {})
    context = SimpleNamespace(data_hash=str, device="cpu", sources=sources, added=ADDED, file_hash=str)
    found = []
    for stage in stages_of(job.config):
        tree = stage.parts(context)
        found.append({key: value for key, value in tree.items() if key not in ("teacher", "start")})
        found[-1]["data"] = tree["data"]["view"]
    return found
