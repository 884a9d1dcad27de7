"""What one launch was asked to do, as a frozen value: data sets, settings of the trials, what surrounds them.

The settings of a trial are those of `search.settings`; here are only the others.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from orchestrator.files import dump_yaml
from orchestrator.runs import TrialRecord
from orchestrator.schema import OverridesOf
from search.hybrid_settings import (
    HYBRID_BUDGETS,
    EvolutionSettings,
    FinetuneSettings,
    LatencySettings,
    SpaceSettings,
    SupernetSettings,
)
from search.setting import setting
from search.settings import (
    BUDGETS,
    DataSettings,
    LossSettings,
    NetworkSettings,
    RetrainSettings,
    RuntimeSettings,
    SearchSettings,
    Settings,
)

DEMO: dict[str, dict[str, Any]] = {
    "data": {"image_size": 64, "augment": ("hflip", "vflip")},
    "network": {"channels": 8},
    "search": {"epochs": 3, "warmup_epochs": 1, "steps": 8, "weight_lr": 0.025, "alpha_lr": 0.02},
    "retrain": {"epochs": 40, "steps": 20, "lr": 0.025},
    # Timing the forms would take longer than the search.
    "runtime": {"form": "batched", "channels_last": "on"},
}
"""What `defectnas demo` changes of the defaults: small enough for five minutes on two busy cores."""

HYBRID_DEMO: dict[str, dict[str, Any]] = {
    **HYBRID_BUDGETS["smoke"],
    "data": {"image_size": 64, "task": "multiclass", "augment": ("hflip", "vflip")},
    "supernet": {"lr": 2e-3, "epochs": 10, "warmup_epochs": 1, "steps": 20, "validate_every": 5, "probes": 1},
    "latency": {"records": 30, "repeats": 5, "warmup": 1},
    "evolution": {"population": 8, "generations": 3, "children": 4, "parents": 3},
    "finetune": {"epochs": 6, "steps": 20, "lr": 5e-4},
}

Budgets = Mapping[str, Mapping[str, Mapping[str, Any]]]
ALL_BUDGETS: Budgets = {"demo": DEMO, **BUDGETS}
"""What each budget changes of the defaults, by section, for NAS-ASDet and random cells."""

BUDGETS_OF: Mapping[str, Budgets] = {
    "asdet": ALL_BUDGETS,
    "random": ALL_BUDGETS,
    "autonad": {"demo": HYBRID_DEMO, **HYBRID_BUDGETS},
}
"""The budgets of each method."""


@dataclass(frozen=True)
class DataSetSettings:
    """One data set of a launch."""

    path: str = field(
        metadata={
            "help": "folder of the data set, relative ones seen from the file that names it; "
            "or its URI in a store, as s3://BUCKET/PATH"
        }
    )
    name: str = setting("", "name in folders and tables; empty: the folder's name")
    reader: str = setting("auto", "how the folder is laid out; auto recognises it")
    settings: Annotated[Mapping[str, Any], OverridesOf(DataSettings)] = field(
        default_factory=dict, metadata={"help": "settings of the section data that differ for this data set"}
    )


@dataclass(frozen=True)
class ResourceSettings:
    """What one trial gets, and how many run at once."""

    cpus: int | Literal["auto"] = setting("auto", "CPUs of one trial; auto shares them out among the trials", ge=1)
    gpus: float | Literal["auto"] = setting("auto", "GPUs of one trial; auto: one per worker where there are any", ge=0)
    workers: int = setting(1, "processes of the DDP group inside one trial", ge=1)
    least_workers: int = setting(
        1,
        "AutoNAD: fewest workers that a supernet's training goes on with when nodes are lost; fewer, and it waits",
        ge=1,
    )
    scorers: int | Literal["auto"] = setting(
        "auto",
        "AutoNAD: actors that score candidates; they share 0.6 of each GPU; auto: one per GPU, else one per "
        "runtime.threads CPUs",
        ge=1,
    )
    parallel: int | Literal["auto"] = setting("auto", "most trials at once; auto: as many as fit", unit="trials", ge=1)
    wait: float = setting(
        1800.0,
        "most time to wait for nodes that an autoscaled cluster is asked for; then the trial fails, but a supernet "
        "that has least_workers is trained by those that came",
        unit="s",
        ge=0,
    )
    retries: int = setting(
        2, "new attempts at a trial whose process died or raised; bad input is not tried again", ge=0
    )


@dataclass(frozen=True)
class ClusterSettings:
    """Where the trials run."""

    address: str = setting(
        "auto",
        "HOST:PORT of a Ray cluster; auto: RAY_ADDRESS or one begun with `ray start` here, "
        "else Ray in this process; none: always Ray in this process; FILE.toml: a cluster profile with an address; "
        "on the command line also ray://HOST:10001: the search becomes a job of that cluster",
    )
    ray: bool = setting(True, "false: no Ray, the trials one after the other in this process")
    dashboard: bool = setting(False, "Ray's dashboard, where Ray is started in this process")
    runtime_env: Literal["none", "uv"] = setting(
        "none",
        "how the code reaches the nodes of a cluster that is joined; none: it is installed there; "
        "uv: this source tree is sent, and each node makes its environment from uv.lock",
    )


@dataclass(frozen=True)
class StorageSettings:
    """The store that a run is mirrored to, so that it outlives its machine."""

    uri: str = setting("", "s3://BUCKET/PATH, gs://, abfs:// or file:// that runs and packs are kept in; empty: none")
    every: float = setting(
        15.0, "time between two looks at what has changed; a dead machine loses as much", unit="s", gt=0
    )
    cache: str = setting("", "folder on each node for what is fetched; empty: defectnas in the user's cache")


@dataclass(frozen=True)
class TrackingSettings:
    """Where MLflow records the run."""

    enabled: bool = setting(True, "record the run with MLflow")
    uri: str = setting(
        "", "MLflow tracking URI, without a password (see security.md); empty: a SQLite store beside the runs"
    )
    experiment: str = setting("defectnas", "MLflow experiment")


@dataclass(frozen=True)
class Launch:
    """Everything that one launch was asked to do, resolved; the content of config.yaml."""

    method: Literal["asdet", "random", "autonad"] = setting(
        "asdet", "asdet: NAS-ASDet; random: one of its cells, drawn, then trained the same; autonad: AutoNAD"
    )
    budget: Literal["demo", "smoke", "short", "paper"] = setting("paper", "what the settings below start from")
    baseline: Literal["none", "random"] = setting(
        "none", "random: a random architecture, or with autonad a random search of equal cost, beside each search"
    )
    seed: int = setting(0, "seed of the first trial of a data set", ge=0)
    seeds: int = setting(1, "trials per data set, of consecutive seeds", unit="seeds", ge=1)
    data_sets: tuple[DataSetSettings, ...] = setting((), "the data sets")
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    supernet: SupernetSettings = field(default_factory=SupernetSettings)
    latency: LatencySettings = field(default_factory=LatencySettings)
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    resources: ResourceSettings = field(default_factory=ResourceSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def to_yaml(self) -> str:
        """Return the YAML text that `resolve` reads back as the same value."""
        return dump_yaml(json.loads(json.dumps(dataclasses.asdict(self))))

    def trials(self) -> list["Trial"]:
        """Return the trials of the launch: data set by data set, seed by seed, the baseline beside each."""
        # AutoNAD compares itself with random search inside of a trial, on the same supernet.
        alone = self.baseline == "none" or self.method == "autonad"
        methods = [self.method] if alone else [self.method, self.baseline]
        return [
            _trial(self, data_set, seed, method)
            for data_set in self.data_sets
            for seed in range(self.seed, self.seed + self.seeds)
            for method in methods
        ]


@dataclass(frozen=True)
class Trial:
    """One trial of a launch: its record, its data set and all settings it runs under."""

    record: TrialRecord
    data_set: DataSetSettings
    settings: Settings


def _trial(launch: Launch, data_set: DataSetSettings, seed: int, method: str) -> Trial:
    middle = "-random" if method == "random" else ""
    record = TrialRecord(f"{data_set.name}{middle}-s{seed}", data_set.name, seed, method)
    sections = {f.name: getattr(launch, f.name) for f in dataclasses.fields(Settings) if f.name not in ("seed", "data")}
    if method == "autonad" and launch.baseline == "random":
        sections["evolution"] = dataclasses.replace(launch.evolution, baseline=True)
    settings = Settings(seed=seed, data=dataclasses.replace(launch.data, **data_set.settings), **sections)
    return Trial(record, data_set, settings)
