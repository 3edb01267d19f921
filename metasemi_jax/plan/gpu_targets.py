"""GPUs in the words of XLA's compiler, which asks the driver for them where there is one.

The facts of each device are those of openxla/xla, xla/backends/gpu/target_config/specs (Apache License 2.0).
"""

from typing import NamedTuple


class _Target(NamedTuple):
    name: str
    capability: tuple[int, int]
    accelerated: bool  # whether the compute capability has instructions of its own
    cores: int
    fpus: int  # of a core
    clock: float  # GHz
    memory: int
    memory_rate: int
    l2: int
    shared: int  # memory of a core
    shared_optin: int


_TARGETS = {
    'a100': _Target(
        'NVIDIA A100-SXM4-80GB', (8, 0), False, 108, 64, 1.41, 85100068864, 2039040000000, 41943040,
        167936, 166912,
    ),
    'h100': _Target(
        'NVIDIA H100 80GB HBM3', (9, 0), True, 132, 128, 1.98, 84942979072, 3352320000000, 52428800,
        233472, 232448,
    ),
    'h200': _Target(
        'NVIDIA H200 141GB HBM3e', (9, 0), True, 132, 128, 1.98, 151397597184, 4800000000000, 52428800,
        233472, 232448,
    ),
    'b200': _Target(
        'NVIDIA B200', (10, 0), True, 148, 128, 1.965, 191514411008, 7672320000000, 132644864, 233472, 232448
    ),
}  # fmt: skip


def target_config(kind: str) -> str:
    """The text of XLA's `GpuTargetConfigProto` for a GPU of `CHIPS`."""
    t = _TARGETS[kind]
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {t.shared}
  threads_per_core_limit: 2048
  core_count: {t.cores}
  fpus_per_core: {t.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {t.memory_rate}
  l2_cache_size: {t.l2}
  clock_rate_ghz: {t.clock}
  device_memory_size: {t.memory}
  shared_memory_per_block_optin: {t.shared_optin}
  cuda_compute_capability {{
    major: {t.capability[0]}
    minor: {t.capability[1]}
    feature_extension: {'ACCELERATED_FEATURES' if t.accelerated else 'NONE'}
  }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{t.name}"
"""
