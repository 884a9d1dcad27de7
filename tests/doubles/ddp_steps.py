"""Steps of a supernet in one of several processes: `python ddp_steps.py RANK WORLD PORT OUT STEPS`."""

import random
import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from models.autonad import AutoNADNet, Room
from models.hybrid_space import HybridSpace
from search.hybrid_settings import SupernetSettings
from search.one_shot import optimizer_of, subnet_step

SPACE = HybridSpace(widths=((32,), (32, 64), (64,), (64,)), depths=((1, 2),) * 4, ratios=((2.0,),) * 4, kernels=(3, 5))


def main(rank: int, world: int, port: int, out: str, steps: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.manual_seed(0)
    network = AutoNADNet(Room.of_space(SPACE), in_channels=1, classes=2, width=32, drop_path=0.0)
    optimizer = optimizer_of(network, SupernetSettings())
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        images = torch.randn(4, 1, 32, 32, generator=generator)
        masks = torch.randint(0, 3, (4, 32, 32), generator=generator)
        subnet_step(network, SPACE.sample(random.Random(step)), optimizer, (images, masks), clip=5.0)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
