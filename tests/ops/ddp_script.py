"""Run by test_registration.py: two gloo processes train one step through the operator; each prints "agrees"."""

from __future__ import annotations

import os
import socket
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from psftr.ops import temporal_deform_attn


class Sampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8 + 6 + 6)

    def forward(self, features: Tensor) -> Tensor:
        values, locations, weights = self.project(features).split((8, 6, 6), dim=-1)
        shape = (*features.shape[:2], 2, 1, 3)
        return temporal_deform_attn(
            values.unflatten(-1, (2, 4)),
            locations.sigmoid().view(shape),
            weights.view(shape).softmax(-1),
            [features.shape[1]],
        )


def work(rank: int, rendezvous: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.manual_seed(0)
    module, features = Sampler(), torch.randn(4, 9, 8)
    module(features).square().mean().backward()
    alone = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    parallel = DistributedDataParallel(module)
    parallel(features[2 * rank : 2 * rank + 2]).square().mean().backward()
    for parameter, expected in zip(module.parameters(), alone, strict=True):
        torch.testing.assert_close(parameter.grad, expected)
    print("agrees", flush=True)
    # an end in order: who leaves while the other still talks, or with a reducer that outlives its group, may abort
    del parallel
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if "lo" in dict(socket.if_nameindex()).values() else "")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, args=(os.path.join(folder, "rendezvous"),), nprocs=2)
