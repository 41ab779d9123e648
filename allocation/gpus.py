"""Common GPU types: what a replica can count on. `cluster.yaml` extends and overrides this table.

`memory_gib` is what the driver reports for the whole device (`nvidia-smi --query-gpu=memory.total`), which is what an
engine's memory fraction is a fraction of; it is below the number of GB in the name. `half_tflops` is dense: data sheets
print twice as much "with sparsity"; 8-bit and 4-bit arithmetic is two and four times that where a type has it. Links
are NVLink of the SXM boards (900, 600 or 1,800 GB/s are both directions together), Infinity Fabric, else PCIe x16; the
bridge of H100 NVL joins pairs only and is not counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

CPU = "cpu"
"""Name of the type whose unit is one processor core: its replicas run on the CPU and ask Ray for cores, not GPUs."""

PCIE3_GB_PER_S, PCIE4_GB_PER_S, PCIE5_GB_PER_S = 16.0, 32.0, 64.0
"""x16, a direction."""


@dataclass(frozen=True)
class GpuType:
    """What one GPU of a type can do.

    Attributes:
        bandwidth_gb_per_s: of its memory, 1e9 bytes/s.
        half_tflops, fp8_tflops, fp4_tflops: dense, 1e12 FLOP/s; None: it has no arithmetic of that width, so weights
            are widened to 16 bits as they are read.
        capability: NVIDIA's compute capability, 80 for 8.0; None: another maker's, or unknown.
        link_gb_per_s: what a GPU exchanges with the others of its node, 1e9 bytes/s a direction.
        slice_of: the type of the GPU that it is a MIG slice of; None: a GPU of its own.
    """

    name: str
    memory_gib: float
    bandwidth_gb_per_s: float
    half_tflops: float
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    capability: int | None = None
    link_gb_per_s: float = PCIE4_GB_PER_S
    slice_of: str | None = None

    def mig(self, profile: str) -> GpuType:
        """A slice of the GPU as NVIDIA names it, e.g. 1g.10gb: so many sevenths of the arithmetic, and that memory.

        Memory comes in eighths, and bandwidth with it (NVIDIA Multi-Instance GPU User Guide). Slices disturb each other
        in nothing, and replicas cannot span several.

        Raises:
            ValueError: no such name, or more than the GPU has.
        """
        found = re.fullmatch(r"(\d)g\.(\d+)gb", profile)
        if found is None:
            raise ValueError(f"{profile!r} is no MIG profile; give one as 1g.10gb")
        sevenths, gigabytes = int(found[1]), int(found[2])
        eighths = round(8 * gigabytes / (self.memory_gib * 1.073741824))
        if not (1 <= sevenths <= 7 and 1 <= eighths <= 8):
            raise ValueError(f"{profile!r} is more than a {self.name} has; give one of its MIG profiles")
        arithmetic = {
            name: value * sevenths / 7
            for name in ("half_tflops", "fp8_tflops", "fp4_tflops")
            if (value := getattr(self, name)) is not None
        }
        return replace(
            self,
            name=f"{self.name}-MIG-{profile}",
            memory_gib=self.memory_gib * eighths / 8,
            bandwidth_gb_per_s=self.bandwidth_gb_per_s * eighths / 8,
            slice_of=self.name,
            **arithmetic,
        )


_TABLE = (
    # NVIDIA Blackwell data sheet, HGX B200, an eighth of the board: 180 GB, 62 TB/s and 36 PFLOP/s FP16 with sparsity
    # in all. Driver: 183,359 MiB.
    GpuType("B200", 179.0, 7700, 2250, 4500, 9000, 100, 900),
    # NVIDIA H200 data sheet, SXM: 141 GB, 4.8 TB/s, 1,979 TFLOP/s with sparsity. Driver: 143,771 MiB.
    GpuType("H200", 140.4, 4800, 989, 1979, None, 90, 450),
    # NVIDIA H100 data sheet, SXM: 80 GB, 3.35 TB/s, 1,979 TFLOP/s with sparsity. Driver: 81,559 MiB.
    GpuType("H100", 79.6, 3350, 989, 1979, None, 90, 450),
    # NVIDIA H20, as resellers print its brief: 96 GB, 4 TB/s, 148 TFLOP/s dense, NVLink. Driver: 97,871 MiB.
    GpuType("H20", 95.6, 4000, 148, 296, None, 90, 450),
    # NVIDIA H100 data sheet, PCIe: 80 GB, 2 TB/s, 1,513 TFLOP/s with sparsity. Driver: 81,559 MiB.
    GpuType("H100-PCIe", 79.6, 2000, 756, 1513, None, 90, PCIE5_GB_PER_S),
    # NVIDIA H100 data sheet, NVL: 94 GB, 3.9 TB/s, 1,671 TFLOP/s with sparsity. Driver: 95,830 MiB.
    GpuType("H100-NVL", 93.6, 3900, 835, 1671, None, 90, PCIE5_GB_PER_S),
    # NVIDIA A100 data sheet, 80GB SXM: 2,039 GB/s, 312 TFLOP/s dense. Driver: 81,920 MiB.
    GpuType("A100-80GB", 80.0, 2039, 312, None, None, 80, 300),
    # NVIDIA A100 data sheet, 40GB SXM: 1,555 GB/s, 312 TFLOP/s dense. Driver: 40,960 MiB.
    GpuType("A100-40GB", 40.0, 1555, 312, None, None, 80, 300),
    # NVIDIA L40S data sheet: 48 GB with ECC, 864 GB/s, 362.05 TFLOP/s dense. Driver: 46,068 MiB.
    GpuType("L40S", 45.0, 864, 362, 733, None, 89),
    # NVIDIA L4 data sheet: 24 GB with ECC, 300 GB/s, 242 TFLOP/s with sparsity. Driver: 23,034 MiB.
    GpuType("L4", 22.5, 300, 121, 242, None, 89),
    # NVIDIA A10G data sheet (AWS G5): 24 GB with ECC, 600 GB/s, 70 TFLOP/s dense. Driver: 23,028 MiB.
    GpuType("A10G", 22.5, 600, 70, None, None, 86),
    # NVIDIA A10 data sheet: 24 GB with ECC, 600 GB/s, 125 TFLOP/s dense. Driver: 23,028 MiB.
    GpuType("A10", 22.5, 600, 125, None, None, 86),
    # NVIDIA T4 data sheet: 16 GB with ECC, 320 GB/s, 65 TFLOP/s (float16 only). Driver: 15,360 MiB.
    GpuType("T4", 15.0, 320, 65, None, None, 75, PCIE3_GB_PER_S),
    # NVIDIA Ada whitepaper, GeForce RTX 4090: 24 GB, 1,008 GB/s, 165.2 TFLOP/s with float32 sums. Driver: 24,564 MiB.
    GpuType("RTX4090", 24.0, 1008, 165, 330, None, 89),
    # AMD Instinct MI300X data sheet: 192 GB, 5.3 TB/s, 1,307.4 TFLOP/s dense. Driver: 196,592 MiB.
    GpuType("MI300X", 192.0, 5300, 1307, 2615, None, None, 448),
    # AMD Instinct MI325X data sheet: 256 GB, 6 TB/s, 1,307.4 TFLOP/s dense. Driver: 262,128 MiB.
    GpuType("MI325X", 256.0, 6000, 1307, 2615, None, None, 448),
)

GPU_TYPES: dict[str, GpuType] = {gpu.name: gpu for gpu in _TABLE}
