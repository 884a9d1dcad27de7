"""Real NAS-ASDet trials as two processes."""

import json

from orchestrator.group import run_in_group
from search.data.pack import build_pack
from search.data.readers import open_dataset
from search.data.synthetic import write_dataset
from search.ledger import read_events
from search.settings import (
    DataSettings,
    NetworkSettings,
    RetrainSettings,
    RuntimeSettings,
    SearchSettings,
    Settings,
)

TINY = Settings(
    data=DataSettings(image_size=32),
    network=NetworkSettings(channels=4, operators=("zero", "identity", "sep_conv_3x3", "spatial_att")),
    search=SearchSettings(keep=(2, 1), epochs=1, warmup_epochs=0, batch=4, steps=1, alpha_lr=0.05),
    retrain=RetrainSettings(epochs=1, steps=2),
    runtime=RuntimeSettings(threads=1, device="cpu"),
)


def test_two_processes_agree_and_finish_though_one_is_late(tmp_path):
    pack = build_pack(open_dataset(write_dataset(tmp_path / "data", images=16, size=32)), TINY.data, 0, tmp_path)
    trial = {"name": "data", "pack": str(pack.folder), "settings": TINY.to_dict()}
    group = tmp_path / "group"
    for method in ("asdet", "random"):
        (group / method).mkdir(parents=True)
        (group / method / "trial.json").write_text(json.dumps({**trial, "method": method}))
    run_in_group("trial_in_group:late", group, lambda event: None, workers=2)
    for method in ("asdet", "random"):
        first, second = (json.loads((group / method / f"member-{rank}.json").read_text()) for rank in (0, 1))
        assert first == second
        metrics = json.loads((group / method / "metrics.json").read_text())
        assert (metrics["method"], metrics["architecture_digest"]) == (method, first["architecture"])
        events = list(read_events(group / method / "ledger.jsonl"))
        assert (events[0]["workers"], events[-1]["event"]) == (2, "finished")
