"""vLLM's own metrics, as far as the dashboard asks for them; engines that run are asked whether they have them."""

from __future__ import annotations

_GAUGES = {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
_COUNTERS = {"vllm:generation_tokens_total", "vllm:num_preemptions_total"}
_HISTOGRAMS = {"vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"}
VLLM = _GAUGES | _COUNTERS | {f"{name}_bucket" for name in _HISTOGRAMS}
