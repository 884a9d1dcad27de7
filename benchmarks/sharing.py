"""AutoNAD: who shares weights (Table VII, Fig. 6). Supernets of equal steps; a fixed set of subnets scored in each.

    python -m benchmarks.sharing --data FOLDER [--budget smoke] [--seeds 1] [--subnets 8] [--set key=value]

Subnets inherit their weights and are scored on the validation images, which no weight has learnt from. All three train
the same subnets on the same tiles, changed alike, in the same steps.
"""

import argparse
import dataclasses
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from benchmarks.result import give
from orchestrator.config import Layer, data_sets_layer, file_layer, resolve, set_layer
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.hybrid_settings import space_of
from search.one_shot import division, train_supernet
from search.scoring import Scorer
from search.settings import Settings
from search.trial import open_context

SCHEMES: tuple[Literal["cross", "entangled", "classical"], ...] = ("cross", "entangled", "classical")


def score_subnets(settings: Settings, data: Path, folder: Path, subnets: int) -> dict[str, Any]:
    """Train a supernet in a new folder; return its parameters, seconds and the mIoU (percent) of each subnet."""
    pack = build_pack(open_dataset(data), settings.data, settings.seed, folder.parent / "packs")
    folder.mkdir()
    seconds: list[float] = []
    context = open_context(
        folder,
        {"settings": settings.to_dict(), "pack": str(pack.folder), "name": data.name, "method": "autonad"},
        lambda event: seconds.append(event["seconds"]) if event["event"] == "epoch" else None,
    )
    network = train_supernet(context)
    scorer = Scorer.on_validation(context, network, division(context)[1])
    space = space_of(settings.space)
    drawn = [space.sample(random.Random(f"sharing/{k}")) for k in range(subnets)]
    scores = [100 * scorer.score(architecture).miou for architecture in drawn]
    return {
        "miou_mean": statistics.mean(scores),
        "miou_min": min(scores),
        "miou_max": max(scores),
        "miou": scores,
        "parameters_m": sum(p.numel() for p in network.parameters()) / 1e6,
        "training_s": sum(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--budget", default="smoke")
    parser.add_argument("--seeds", type=int, default=1, help="supernets of each scheme, default 1")
    parser.add_argument("--subnets", type=int, default=8, help="scored in each, default 8")
    parser.add_argument("--config", type=Path, help="a YAML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    layers = [file_layer(arguments.config)] if arguments.config else []
    layers += [Layer("benchmark", {"method": "autonad", "seeds": arguments.seeds}), set_layer(arguments.set)]
    launch = resolve([*layers, data_sets_layer([arguments.data])], budget=arguments.budget)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for trial in launch.trials():
            seed = trial.settings.seed
            for scheme in SCHEMES:
                settings = dataclasses.replace(trial.settings, space=dataclasses.replace(launch.space, sharing=scheme))
                row = score_subnets(settings, arguments.data, Path(scratch) / f"{scheme}-{seed}", arguments.subnets)
                found.setdefault(scheme, []).append({"seed": seed, **row})
                cells = "  ".join(f"{key} {value:,.2f}" for key, value in row.items() if key != "miou")
                print(f"  {scheme:10s} seed {seed}  {cells}", file=sys.stderr, flush=True)
    give({"data": arguments.data.name, "budget": arguments.budget, "schemes": found}, arguments.json)


if __name__ == "__main__":
    main()
