"""What profiles know of vLLM, beside the source of the installed one; sizes are in tests/benchmarks/profiles."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from apportion.allocation.quantisation import _NOT_LOADED, CAPABILITIES

# Where each method stands: module and class.
CLASSES = {
    "awq": ("auto_awq", "AutoAWQConfig"),
    "compressed-tensors": ("compressed_tensors/compressed_tensors", "CompressedTensorsConfig"),
    "fbgemm_fp8": ("fbgemm_fp8", "FBGEMMFp8Config"),
    "fp8": ("fp8", "Fp8Config"),
    "fp_quant": ("fp_quant", "FPQuantConfig"),
    "gptq": ("auto_gptq", "AutoGPTQConfig"),
    "inc": ("inc/inc", "INCConfig"),
    "modelopt": ("modelopt", "ModelOptFp8Config"),
    "modelopt_fp4": ("modelopt", "ModelOptNvFp4Config"),
    "modelopt_mxfp8": ("modelopt", "ModelOptMxFp8Config"),
    "mxfp4": ("mxfp4", "Mxfp4Config"),
    "quark": ("quark/quark", "QuarkConfig"),
    "torchao": ("torchao", "TorchAOConfig"),
}


@pytest.fixture(scope="module")
def folder() -> Path:
    found = find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    return Path(found.origin).parent / "model_executor" / "layers" / "quantization"


@pytest.mark.parametrize("method", sorted(CAPABILITIES))
def test_capabilities_are_those_of_vllm(folder: Path, method: str) -> None:
    file, name = CLASSES[method]
    _, _, body = (folder / f"{file}.py").read_text().partition(f"\nclass {name}(")
    assert body, name
    found = re.search(r"def get_min_capability\(cls\) -> int:\n(?:\s*#.*\n)*\s*return (\d+)", body)
    assert found is not None
    assert int(found[1]) == CAPABILITIES[method]


def test_what_vllm_does_not_load_is_none_of_its_methods(folder: Path) -> None:
    text = (folder / "__init__.py").read_text()
    assert all(f'"{method}"' in text for method in CAPABILITIES)
    assert not any(f'"{method}"' in text for method in _NOT_LOADED)
