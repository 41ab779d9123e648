"""Common GPU types: what a replica can count on. `cluster.yaml` extends and overrides this table.

`memory_gib` is what the driver reports for the whole device (`nvidia-smi --query-gpu=memory.total`), which is what an
engine's memory fraction is a fraction of; it is below the number of GB in the name. `half_tflops` is dense: data sheets
print twice as much "with sparsity".
"""

from __future__ import annotations

from dataclasses import dataclass

CPU = "cpu"
"""Name of the type whose unit is one processor core: its replicas run on the CPU and ask Ray for cores, not GPUs."""


@dataclass(frozen=True)
class GpuType:
    """memory_gib; bandwidth_gb_per_s: memory bandwidth, 1e9 bytes/s; half_tflops: dense 16-bit, 1e12 FLOP/s."""

    name: str
    memory_gib: float
    bandwidth_gb_per_s: float
    half_tflops: float


_TABLE = (
    # NVIDIA Blackwell data sheet, HGX B200, an eighth of the board: 180 GB, 62 TB/s and 36 PFLOP/s FP16 with sparsity
    # in all. Driver: 183,359 MiB.
    GpuType("B200", 179.0, 7700, 2250),
    # NVIDIA H200 data sheet, SXM: 141 GB, 4.8 TB/s, 1,979 TFLOP/s with sparsity. Driver: 143,771 MiB.
    GpuType("H200", 140.4, 4800, 989),
    # NVIDIA H100 data sheet, SXM: 80 GB, 3.35 TB/s, 1,979 TFLOP/s with sparsity. Driver: 81,559 MiB.
    GpuType("H100", 79.6, 3350, 989),
    # NVIDIA H100 data sheet, PCIe: 80 GB, 2 TB/s, 1,513 TFLOP/s with sparsity. Driver: 81,559 MiB.
    GpuType("H100-PCIe", 79.6, 2000, 756),
    # NVIDIA H100 data sheet, NVL: 94 GB, 3.9 TB/s, 1,671 TFLOP/s with sparsity. Driver: 95,830 MiB.
    GpuType("H100-NVL", 93.6, 3900, 835),
    # NVIDIA A100 data sheet, 80GB SXM: 2,039 GB/s, 312 TFLOP/s dense. Driver: 81,920 MiB.
    GpuType("A100-80GB", 80.0, 2039, 312),
    # NVIDIA A100 data sheet, 40GB SXM: 1,555 GB/s, 312 TFLOP/s dense. Driver: 40,960 MiB.
    GpuType("A100-40GB", 40.0, 1555, 312),
    # NVIDIA L40S data sheet: 48 GB with ECC, 864 GB/s, 362.05 TFLOP/s dense. Driver: 46,068 MiB.
    GpuType("L40S", 45.0, 864, 362),
    # NVIDIA L4 data sheet: 24 GB with ECC, 300 GB/s, 242 TFLOP/s with sparsity. Driver: 23,034 MiB.
    GpuType("L4", 22.5, 300, 121),
    # NVIDIA A10G data sheet (AWS G5): 24 GB with ECC, 600 GB/s, 70 TFLOP/s dense. Driver: 23,028 MiB.
    GpuType("A10G", 22.5, 600, 70),
    # NVIDIA A10 data sheet: 24 GB with ECC, 600 GB/s, 125 TFLOP/s dense. Driver: 23,028 MiB.
    GpuType("A10", 22.5, 600, 125),
    # NVIDIA T4 data sheet: 16 GB with ECC, 320 GB/s, 65 TFLOP/s (float16 only). Driver: 15,360 MiB.
    GpuType("T4", 15.0, 320, 65),
    # NVIDIA Ada whitepaper, GeForce RTX 4090: 24 GB, 1,008 GB/s, 165.2 TFLOP/s with float32 sums. Driver: 24,564 MiB.
    GpuType("RTX4090", 24.0, 1008, 165),
    # AMD Instinct MI300X data sheet: 192 GB, 5.3 TB/s, 1,307.4 TFLOP/s dense. Driver: 196,592 MiB.
    GpuType("MI300X", 192.0, 5300, 1307),
    # AMD Instinct MI325X data sheet: 256 GB, 6 TB/s, 1,307.4 TFLOP/s dense. Driver: 262,128 MiB.
    GpuType("MI325X", 256.0, 6000, 1307),
)

GPU_TYPES: dict[str, GpuType] = {gpu.name: gpu for gpu in _TABLE}
