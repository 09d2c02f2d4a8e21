from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdrun.job.compose import compose
from kdrun.tracking.flatten import flatten

keys = st.text(alphabet="ab.\\/ é", min_size=1, max_size=4)
trees = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def test_nested_mappings_become_dotted_keys_lists_stay():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}) == {"a.b": 1, "a.c": {}, "d": [{"e": 2}]}


def test_a_dot_in_a_key_does_not_collide():
    assert len(flatten({"a": {"b": 1}, "a.b": 2})) == 2


def test_no_key_of_a_shipped_config_holds_a_dot():
    assert not any("\\" in key for key in flatten(compose([]).config))


def leaves(tree):
    return sum(leaves(value) if isinstance(value, dict) and value else 1 for value in tree.values())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keys, trees, max_size=4), st.sampled_from("./"))
def test_no_two_values_share_a_key(tree, separator):
    assert len(flatten(tree, separator)) == leaves(tree)
