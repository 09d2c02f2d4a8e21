"""What the fork server imports before its first fork."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from kdrun.processes import server


@pytest.mark.parametrize("made", [False, True])
def test_transformers_is_imported_where_it_makes_a_network_of_the_jobs(made, monkeypatch):
    asked = []

    def imports(name):
        asked.append(name)
        if name == "mine.networks" and made:
            monkeypatch.setitem(sys.modules, "kdrun.networks.quiet", ModuleType("quiet"))

    monkeypatch.delitem(sys.modules, "kdrun.networks.quiet", raising=False)
    monkeypatch.setattr(server, "importlib", SimpleNamespace(import_module=imports))
    monkeypatch.setattr(server, "gc", SimpleNamespace(collect=int, freeze=int))
    server.preload({"path": [*sys.path], "preload": ["mine.networks"]})
    assert asked == [*server.PRELOAD, "mine.networks", *([server.MODELS] if made else [])]
