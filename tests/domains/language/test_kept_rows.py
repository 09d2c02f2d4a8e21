"""Rows of large corpora: made once, read through memory maps, made again where anything they depend on is another."""

import numpy as np
import pytest
import torch
from language_support import module_of

from kdrun.domains.language import kept_rows, rows
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.task import CausalLanguage


def alike(one, other):
    for name in ("train", "val", "test"):
        first, second = (next(iter(each.eval_loader(name, 64))) for each in (one, other))
        for key in ("ids", "targets", "mask", "bytes"):
            assert torch.equal(first[key], second[key]), (name, key)
        ours, theirs = (each.samples(name) for each in (one, other))
        assert np.array_equal(ours.predicted, theirs.predicted) and ours.origins.of(0) == theirs.origins.of(0)
    assert one.audit()["notes"] == other.audit()["notes"]
    assert CausalLanguage(one).baselines() == CausalLanguage(other).baselines()


@pytest.mark.parametrize("chats", [False, True])
def test_a_second_start_reads_what_the_first_made(tmp_path, monkeypatch, chats):
    source = made_corpus(80, chats=chats)
    plain = module_of(tmp_path, source)
    assert not (tmp_path / "decoded").exists()
    monkeypatch.setattr(kept_rows, "LEAST", 1)
    first = module_of(tmp_path, source)
    alike(plain, first)
    assert isinstance(first.samples("train").tokens.flat, np.memmap)
    monkeypatch.setattr(rows, "pieces", None)  # nothing is cut into tokens any more
    second = module_of(tmp_path, source)
    alike(plain, second)
    with pytest.raises(TypeError):
        module_of(tmp_path, source, max_length=32)
    with pytest.raises(TypeError):
        module_of(tmp_path, made_corpus(81, chats=chats))


def test_a_file_that_was_changed_is_made_again(tmp_path, monkeypatch):
    plain = module_of(tmp_path)
    monkeypatch.setattr(kept_rows, "LEAST", 1)
    module_of(tmp_path)
    for path in (tmp_path / "decoded").glob("tokens-*/tokens.npy"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 255
        path.write_bytes(bytes(content))
    alike(module_of(tmp_path), plain)
