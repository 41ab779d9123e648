"""Groups of equal replicas in the configuration."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from apportion.router.checked import Section


class ReplicaGroup(Section):
    """Equal replicas of a model, a Serve deployment of their own; a plan writes them, one a node and share."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Differs within the model; ends the deployment's name.")
    node: str | None = Field(
        None,
        description="Where they run: a node's address, or the value of its label `apportion-node`; null: anywhere.",
    )
    gpus: tuple[int, ...] | None = Field(
        None, description="Numbers of the node's GPUs that each replica of the group uses; null: Ray chooses."
    )
    gpu_type: str | None = Field(
        None,
        pattern=r"^([A-Za-z0-9]+[-_.])*[A-Za-z0-9]+$",
        max_length=63,
        description="They run on nodes whose label `apportion-gpu-type` says this; null: on any.",
    )
    num_replicas: int = Field(1, ge=1, description="Replicas of the group; with min_replicas, the most.")
    min_replicas: int | None = Field(
        None,
        ge=0,
        description="Serve scales from these to num_replicas by the slots in use; 0, for a model's only group: the "
        "model sleeps while nobody needs it; null: always num_replicas.",
    )
    downscale_to_zero_delay_s: float = Field(
        600.0,
        ge=60,
        description="With min_replicas 0: the last replica stops after so long without a request, and some 40 s more, "
        "since Serve looks at an average of half a minute.",
    )
    num_gpus: float = Field(0, ge=0, description="GPUs of a replica: a share below 1, or whole ones.")
    num_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves for a replica.")
    max_num_seqs: int = Field(64, ge=1, description="Sequences that a replica runs at once: its slots.")
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="vLLM's arguments of these replicas, beside and before the model's."
    )
    placement_group_bundles: tuple[dict[str, float], ...] | None = Field(
        None, description="What Ray reserves for a replica as one group on one node; null: actor by actor."
    )

    @model_validator(mode="after")
    def _bundles_agree(self) -> ReplicaGroup:
        if self.min_replicas is not None and self.min_replicas > self.num_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above num_replicas {self.num_replicas}; lower it")
        if self.placement_group_bundles is not None:
            gpus = sum(bundle.get("GPU", 0) for bundle in self.placement_group_bundles)
            if gpus != self.num_gpus:
                raise ValueError(f"the bundles hold {gpus:g} GPUs and num_gpus is {self.num_gpus:g}; make them equal")
        if self.gpus is not None and (self.node is None or len(set(self.gpus)) != max(1, int(self.num_gpus))):
            raise ValueError(f"gpus {list(self.gpus)}: name the node too, and as many GPUs as a replica takes")
        if self.gpu_type is not None and self.node is not None:
            raise ValueError(f"gpu_type {self.gpu_type}: a node is named, whose GPUs are what they are; leave one out")
        return self
