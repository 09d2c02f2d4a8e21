"""What torchmetrics would import at once comes when it is asked for. That it does not come before: test_torchvision_operators.py."""

import sys
from importlib.util import module_from_spec

import pytest
import torch
import torchmetrics.functional.text.bert
import torchmetrics.utilities.plot

from kdrun.late_imports import PLACES, Finder, Later


def again(name: str, monkeypatch):
    """The module, its code run as if what it imports at once were not imported yet."""
    parent = sys.modules[name.rpartition(".")[0]]
    with monkeypatch.context() as patch:
        for one in PLACES[name]:
            patch.delitem(sys.modules, one, raising=False)
        spec = Finder.find_spec(name, parent.__path__)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        assert not set(PLACES[name]) & set(sys.modules)
    return module


def test_a_metric_is_drawn(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    plot = again("torchmetrics.utilities.plot", monkeypatch)
    assert isinstance(plot.plt, Later)
    figure, axes = plot.plot_single_or_multi_val(torch.tensor(0.5), name="Accuracy")
    assert isinstance(figure, pyplot.Figure) and axes.get_ylabel() == "Accuracy"
    pyplot.close(figure)


def test_a_tokenizer_is_looked_for(monkeypatch, tmp_path):
    pytest.importorskip("transformers")
    bert = again("torchmetrics.functional.text.bert", monkeypatch)
    assert isinstance(bert.AutoTokenizer, Later) and bert.bert_score
    with pytest.raises((OSError, ValueError), match="tokenizer"):
        bert.AutoTokenizer.from_pretrained(str(tmp_path))


def test_what_is_imported_already_is_taken(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    spec = Finder.find_spec("torchmetrics.utilities.plot", torchmetrics.utilities.__path__)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.matplotlib is matplotlib
