"""What a process of a group takes of a batch."""

import pytest
import torch

from search import training


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_every_process_of_a_group_gets_as_many_images_and_all_are_used(monkeypatch, size):
    images, masks = torch.arange(size).float(), torch.arange(size)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(training, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(training, "world_size", lambda: 3)
        parts.append(training.own_part((images, masks)))
    assert {len(part[0]) for part in parts} == {-(-size // 3)}
    assert {int(value) for part in parts for value in part[1]} == set(range(size))
    assert all(torch.equal(images.long(), masks) for images, masks in parts)


def test_alone_a_process_takes_the_batch_as_it_is():
    batch = torch.randn(5, 1, 4, 4), torch.randint(0, 2, (5, 4, 4))
    assert all(torch.equal(own, whole) for own, whole in zip(training.own_part(batch), batch, strict=True))
