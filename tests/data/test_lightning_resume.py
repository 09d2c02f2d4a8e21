"""The loader under Lightning's own trainer: epochs advance, and a checkpoint in mid-epoch goes on where it was."""

import pytest
import torch
from lightning import LightningModule, Trainer

from kdrun.domains.load import load_data

PATHS = {"cache": "unused"}
CONFIG = {"_target_": "kdrun.domains.images.shipped.digits.digits", "limit": {"train": 100}, "augment": {"crop": 1}}


class Stop(Exception):
    pass


class Recorder(LightningModule):
    def __init__(self, stop_after=None, path=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(64, 10)
        self.seen, self.stop_after, self.path = [], stop_after, path

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, index):
        self.seen.append((self.trainer.current_epoch, batch["ids"].tolist(), float(batch["inputs"].sum())))
        return torch.nn.functional.cross_entropy(self.layer(batch["inputs"].flatten(1)), batch["targets"])

    def validation_step(self, batch, index):
        pass

    def on_train_batch_end(self, *arguments):
        if len(self.seen) == self.stop_after:
            self.trainer.save_checkpoint(self.path)
            raise Stop


def fit(recorder, checkpoint=None):
    module = load_data(CONFIG, PATHS)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    loaders = {"train_dataloaders": module.train_loader(32, 7), "val_dataloaders": module.eval_loader("val", 64)}
    trainer.fit(recorder, **loaders, ckpt_path=checkpoint, weights_only=True)
    return recorder


@pytest.fixture(scope="module")
def unbroken():
    return fit(Recorder())


def test_epochs_differ(unbroken):
    assert [number for number, _, _ in unbroken.seen] == [0] * 4 + [1] * 4 + [2] * 4
    assert unbroken.seen[0][1] != unbroken.seen[4][1] != unbroken.seen[8][1]


@pytest.mark.parametrize("stop_after", [1, 3, 5, 6, 10])
def test_resume_in_mid_epoch(unbroken, stop_after, tmp_path):
    path = tmp_path / "state.ckpt"
    first = Recorder(stop_after, path)
    with pytest.raises(Stop):
        fit(first)
    loops = torch.load(path, weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loops == [{"epoch": (stop_after - 1) // 4, "cursor": stop_after % 4}]
    second = fit(Recorder(), path)
    assert first.seen + second.seen == unbroken.seen
    assert torch.equal(second.layer.weight, unbroken.layer.weight)


def test_lightning_evaluates_with_any_of_the_loaders():
    module = load_data(CONFIG, PATHS)
    seen = []

    class Counter(Recorder):
        def validation_step(self, batch, index):
            seen.extend(batch["ids"].tolist())

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    for loader in (module.eval_loader("val", 64), module.train_loader(32, 7)):
        seen.clear()
        trainer.validate(Counter(), loader, verbose=False)
        assert sorted(seen) == sorted(loader.samples.ids.tolist())


def test_as_a_data_module():
    recorder = Recorder()
    module = load_data(CONFIG, PATHS)
    module.batch_size, module.seed = 50, 3
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    Trainer(accelerator="cpu", max_epochs=2, **quiet).fit(recorder, datamodule=module)
    assert [(number, len(ids)) for number, ids, _ in recorder.seen] == [(0, 50), (0, 50), (1, 50), (1, 50)]
    assert recorder.seen[0][1] != recorder.seen[2][1]
