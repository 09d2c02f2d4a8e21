"""strategy=clustered: what it asks a lab for, in its arms, and what it refuses."""

import json

import pytest

from kdrun.job.clusters import cluster_rows, clusters_of
from kdrun.job.compose import compose
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.clustered import Clustered
from kdrun.strategies.unused import refuse_unused

from .test_energy_gated import Notes

WORDS = ("strategy=clustered", "model=clients_mixed", "tracker=none", "card=false", "hardware=cpu", "seed=4")


@pytest.fixture(scope="module")
def cast():
    return Cast(compose(list(WORDS)).cells[0])


def test_the_servers_network_is_no_clients(cast):
    lab = Notes()
    Clustered().run(lab, cast)
    (stage,) = lab.asked
    kinds = [node["_target_"].rpartition(".")[2] for node in stage.federation["private"]]
    assert kinds == ["CNN", "MLP", "ResNet", "ResNet"]
    assert stage.federation["server"]["depth"] == 8 and stage.federation["server"] in stage.networks
    assert stage.federation["partition"] == {"kind": "groups", "alpha": 5.0, "minimum": 8, "groups": 5, "mixing": 0.1}


def test_a_record_and_a_command_deal_the_same_networks_to_the_same_clients(cast):
    """A record has its keys sorted, and a sweep, `kdrun rerun` and other machines read jobs from one."""
    asked = []
    for config in (cast.config, json.loads(json.dumps(cast.config, sort_keys=True))):
        lab = Notes()
        Clustered().run(lab, Cast(config))
        asked += lab.asked
    assert list(cast.config["assistants"]) != sorted(cast.config["assistants"])
    assert asked[0].federation["private"] == asked[1].federation["private"]


def test_all_arms_have_the_same_samples_and_passes_over_labels(cast):
    strategy, lab = Clustered(backward_epochs=4, first_epochs=7, public=0.3), Notes()
    for name in strategy.arms:
        strategy.control(name, lab, cast)
    for stage in lab.asked:
        settings, options = stage.federation, stage.federation["options"]
        assert options.get("public", settings["partition"].get("withheld")) == 0.3, stage.role
        assert options["backward_epochs"] == 4
        assert options.get("first_epochs", 7) == 7
    by_role = {stage.role: stage.federation["options"] for stage in lab.asked}
    assert by_role["alone"]["forward_epochs"] == 0 and by_role["equal_compute"]["forward_epochs"] == 2
    assert by_role["known_clusters"]["clustering"] == "known" and by_role["one_cluster"]["clustering"] == "one"
    assert by_role["no_smoothing"]["smooth"] == 0


class Chosen(Notes):
    """Chooses the last candidate."""

    def choose(self, what, candidates):
        self.what = what
        return list(candidates)[-1]


def test_the_result_and_every_arm_are_tried_with_the_same_rates(cast):
    strategy, lab = Clustered(rates=[0.02, 0.1], rounds=3), Chosen()
    for name in ("student", "alone", "fedct", "one_cluster"):
        found = strategy.run(lab, cast) if name == "student" else strategy.control(name, lab, cast)
        tried = [stage for stage in lab.asked if stage.role == name]
        assert [stage.trainer["optimizer"]["lr"] for stage in tried] == [0.02, 0.1]
        assert found.stage is tried[-1] and lab.what == f"learning rate of {name}"
        assert len({json.dumps(stage.federation, sort_keys=True) for stage in tried}) == 1


@pytest.mark.parametrize("rates", [[0.1, 0.1], [0.1, 0.0], [0.1, "fast"]])
def test_rates_differ_and_are_above_0(rates):
    with pytest.raises(UserError, match="different learning rates above 0"):
        Clustered(rates=rates)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy.rates=[0.1,0.2]", "trainer.optimizer.lr=0.1"], "strategy.rates says"),
        (["~teacher@assistants.server"], "no assistants.server"),
        (["strategy.clustering=greedy"], "needs one"),
        (["strategy.clustering=kmean"], "closest: kmeans"),
        (["strategy.partition=iid", "strategy.clustering=known"], "no groups that could be known"),
        (["strategy.groups=11"], "each needs a client"),
        (["strategy.top_k=4"], "it is for strategy.encoding=top_k"),
        (["strategy.smooth=0", "strategy.smooth_noise=0.1"], "it is for strategy.smooth above 0"),
    ],
)
def test_what_does_not_go_together_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        refuse_unused([compose([*WORDS, *words])])


def test_clusters_are_told_of_by_seed():
    said = {
        "rule": "gap", "of": [0, 0, 1, -1], "groups": [0, 0, 1, 1], "agreement": 0.5, "count": 2, "collapsed": {"3": 2}, "servers": 1,
        "message": {"float32": 8000, "float16": 4000, "top_k": 1800},
    }  # fmt: skip
    found = clusters_of({0: {"clusters": said}, 1: {"clusters": {**said, "count": 3, "agreement": 1.0}}})
    assert found["count"] == 2.5 and found["agreement"] == 0.75 and found["members"]["0"] == [[0, 1], [2]]
    arm = {"gains": {"clusters": found, "bytes": {"up": 1e6, "down": 1e6, "private": 3e7}}}
    text = dict(cluster_rows({"arms": {"student": arm}}))
    assert text["clusters"] == "2, 3 by seed, clustering=gap; 2 hidden groups, adjusted Rand index 0.75"
    assert text["clients, seed 0"] == "0 1 | 2"
    assert "8.0 kB float32" in text["one answer"] and "with private weights 30.0 MB" in text["one answer"]
    assert text["collapsed"] == "one class for all public samples, in rounds: client 3, seed 0: 2; client 3, seed 1: 2"
    assert text["server collapsed"].startswith("2 times")
    assert clusters_of({0: {}}) == {} and cluster_rows({"arms": {}}) == []
