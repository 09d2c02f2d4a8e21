import numpy as np
import pytest
import torch

from kdrun.data import randomness
from kdrun.data.samples import Samples
from kdrun.domains.images.augment import Augment


def test_the_mixing_function_is_splitmix64():
    """First outputs of the reference generator seeded with 0: mixing 0, golden, 2 golden ... before the increment."""
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def slow(state):
        state = (state + golden) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        return state ^ (state >> 31)

    assert slow(0) == 0xE220A8397B1DCDAF  # published first output for seed 0
    ids = np.array([0, 1, 2, -5, 2**62], np.int64)
    for key in (0, 1, 2**63 + 11):
        expected = [slow(slow(int(i) & mask) ^ key) for i in ids]
        assert randomness.bits(key, ids).tolist() == expected


def test_keys_differ_by_every_part():
    keys = {randomness.key("a", 1, 2), randomness.key("a", 2, 1), randomness.key("b", 1, 2), randomness.key("a", 12)}
    assert len(keys) == 4


def slow_augment(image, crop, flip, drawn):
    """One image [C, H, W] at a time, from the 64 drawn bits."""
    height, width = image.shape[1:]
    down = ((drawn & 0xFFFFFF) * (2 * crop + 1)) >> 24
    right = (((drawn >> 24) & 0xFFFFFF) * (2 * crop + 1)) >> 24
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = row + down - crop, column + right - crop
            if 0 <= y < height and 0 <= x < width:
                out[:, row, column] = image[:, y, x]
    return out[:, :, ::-1] if flip and drawn >> 63 else out


@pytest.mark.parametrize(("crop", "flip"), [(2, True), (3, False), (0, True)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_equals_the_obvious_loop(crop, flip, dtype):
    images = torch.randint(1, 256, (20, 3, 7, 9), generator=torch.Generator().manual_seed(0)).to(dtype)
    ids = torch.arange(100, 120)
    before = images.clone()
    result = Augment(crop, flip)(images, ids, key=5)
    drawn = randomness.bits(5, ids.numpy()).tolist()
    for position in range(20):
        expected = slow_augment(images[position].numpy(), crop, flip, drawn[position])
        assert np.array_equal(result[position].numpy(), expected)
    assert torch.equal(images, before) and result.dtype == dtype


def make(augment, count=200):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator).to(torch.uint8)
    numbers = torch.arange(count)
    return Samples(pixels, numbers, numbers * 7, numbers % 10, (0.5,) * 3, (0.25,) * 3, augment)


def test_a_sample_is_the_same_in_every_batch_and_thread_count():
    samples = make(Augment(2, True))
    whole = samples.inputs(torch.arange(200), key=9)
    for positions in (torch.tensor([17]), torch.tensor([199, 17, 3]), torch.arange(10, 75)):
        assert torch.equal(samples.inputs(positions, key=9), whole[positions])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(samples.inputs(torch.arange(200), key=9), whole)
    finally:
        torch.set_num_threads(threads)


def test_every_offset_and_both_directions_occur_equally():
    drawn = randomness.bits(randomness.key("x"), np.arange(9000))
    down = ((drawn & np.uint64(0xFFFFFF)) * np.uint64(9)) >> np.uint64(24)
    counts = np.bincount(down.astype(int), minlength=9)
    assert len(counts) == 9 and abs(counts - 1000).max() < 150
    assert abs(int((drawn >> np.uint64(63)).sum()) - 4500) < 250


def test_replay_depends_on_the_stored_seed_and_the_run_does_not_matter():
    replayed = Augment(2, True, seed=4, views=3)
    assert replayed.replayed and replayed.views == 3
    assert [replayed.view(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    assert replayed.key(seed=1, view=2) == replayed.key(seed=2, view=2) != replayed.key(seed=1, view=1)
    fresh = Augment(2, True)
    assert not fresh.replayed and fresh.views == 1
    assert fresh.key(1, fresh.view(7)) != fresh.key(2, fresh.view(7)) != fresh.key(2, fresh.view(8))
    with pytest.raises(ValueError, match=r"data\.augment\.seed"):
        fresh.key(None, 0)


def test_a_stored_seed_without_augmentation_is_nothing_random():
    nothing = Augment(seed=4, views=5)
    assert not nothing.random and not nothing.replayed and nothing.views == 1 and nothing.key(0, 0) is None
