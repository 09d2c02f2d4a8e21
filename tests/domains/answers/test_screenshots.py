"""Agents that see a screenshot beside the text: which picture stands before which row, and what a network makes of it."""

import numpy as np
import pytest
import torch

from kdrun.domains.answers.shipped.forms import forms
from kdrun.domains.answers.task import Answers
from kdrun.domains.load import load_data
from kdrun.domains.vision_language.networks.llava import LlavaNetwork
from kdrun.job.compose import compose
from kdrun.networks.build import build_network, check_forward
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.guided_on_policy import GuidedOnPolicy

pytest.importorskip("transformers")
WORDS = (
    "strategy=guided_on_policy",
    "data.train=40",
    "data.val=8",
    "data.test=10",
    "tracker=none",
    "seed=0",
    "hardware=cpu",
)
SIZE = 84


def cell(*words):
    return compose(["model=gui_agent_vision", *WORDS, *words]).cells[0]


@pytest.fixture(scope="module")
def agent():
    """(config, data module, task, network)."""
    config = cell()
    module = load_data(config["data"], config["paths"])
    network = build_network(config["student"]["network"], module.spec, seed=0)
    return config, module, Answers(module), network


def shown(module, ids):
    """Pictures of the screens of these rows."""
    forms_of = [module.source.told(int(number) >> 16) for number in ids]
    whole = [np.full((210, 210, 3), 255, np.uint8) for _ in forms_of]
    for canvas, form in zip(whole, forms_of, strict=True):
        canvas[:, :160] = np.asarray(form.picture()[0])
    from PIL import Image

    small = [np.asarray(Image.fromarray(canvas).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for canvas in whole]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_each_row_has_the_picture_of_its_screen_whoever_wrote_the_answer(agent):
    config, module, task, network = agent
    batch = next(iter(module.train_loader(6, 0)))
    assert torch.equal(batch["inputs"]["picture"], shown(module, batch["ids"]))
    generator = torch.Generator().manual_seed(0)
    own = task.own_samples(network, batch, generator, prompt=0.5, temperature=1.0)
    assert torch.equal(own["inputs"]["picture"], shown(module, own["ids"]))
    rewarded, columns = task.policy_samples(network, batch, generator, group=2, prompt=0.5, temperature=1.0)
    assert torch.equal(rewarded["inputs"]["picture"], shown(module, batch["ids"]).repeat_interleave(2, 0))
    assert [screen.text for screen in columns["samples"][::2]] == [
        module.source.told(int(number) >> 16).text for number in batch["ids"]
    ]
    seen = load_data(GuidedOnPolicy().guided(Cast(config)).teacher.data, config["paths"])
    hinted = seen.view_of(module).seen(own)["inputs"]
    assert torch.equal(hinted["picture"], own["inputs"]["picture"])
    assert hinted["input_ids"].shape[1] > own["inputs"]["input_ids"].shape[1]


def test_what_is_written_is_what_a_pass_over_picture_and_row_finds_likeliest(agent):
    _, module, task, network = agent
    batch = next(iter(module.train_loader(3, 0)))
    rows = [batch["inputs"]["input_ids"][row, : 8 + 3 * row] for row in range(3)]
    pictures = batch["inputs"]["picture"]
    made = task.write(network, [row.tolist() for row in rows], 5, 0.0, torch.Generator(), ends=(-1,), picture=pictures)
    for row, picture, written in zip(rows, pictures, made, strict=True):
        ids = row
        for token in written:  # each alone, without padding and without a cache
            logits = network(ids[None], torch.ones(1, len(ids), dtype=torch.bool), picture[None])[0, -1]
            assert token == int(logits.argmax())
            ids = torch.cat([ids, torch.tensor([token])])
    assert len(set(map(tuple, made))) > 1


def test_the_picture_counts_and_its_encoder_learns(agent):
    _, module, task, network = agent
    batch = next(iter(module.train_loader(4, 0)))
    inputs = batch["inputs"]
    logits = task.predict(network, inputs).dense()
    other = task.predict(network, {**inputs, "picture": inputs["picture"].flip(0)}).dense()
    assert logits.shape == (*inputs["input_ids"].shape, module.spec.vocabulary)
    assert not torch.allclose(logits, other)
    logits.square().mean().backward()
    trained = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trained.values())
    assert {"vision_tower", "multi_modal_projector", "language_model"} <= {name.split(".")[3] for name in trained}
    network.zero_grad()
    alone = network(inputs["input_ids"], inputs["attention_mask"])
    assert isinstance(network.network, LlavaNetwork) and not torch.allclose(alone, logits)


def test_what_does_not_go_together_is_told(agent):
    config, module, *_ = agent
    text = compose(["model=gui_agent", *WORDS]).cells[0]
    with pytest.raises(UserError, match=r"does not run on rows of 5 tokens with a picture \(data.screenshot\)"):
        check_forward(build_network(text["student"]["network"], module.spec, seed=0), "a text agent", module.spec)
    plain = load_data(text["data"], text["paths"])
    with pytest.raises(UserError, match=r"the data have none: data\.screenshot=84"):
        build_network(config["student"]["network"], plain.spec, seed=0)
    with pytest.raises(UserError, match=r"data\.language\.pack=false"):
        packed = cell("data.language.pack=true")
        load_data(packed["data"], packed["paths"])
    with pytest.raises(UserError, match=r"data\.screenshot=4: pixels of a side, 16 or more"):
        forms(train=1, val=1, test=1, screenshot=4)


def test_pictures_are_part_of_what_the_data_are():
    small = {"train": 6, "val": 1, "test": 2}
    plain, seen, smaller = (forms(**small, screenshot=size) for size in (None, SIZE, 42))
    assert len({plain.content_hash, seen.content_hash, smaller.content_hash}) == 3
    assert forms(**small).content_hash == plain.content_hash and plain.pictures is None
    assert seen.documents == plain.documents and seen.pictures.pixels(seen.ids).dtype == np.uint8
