"""Row 13: the separable network beside its standard twin, in every runtime: an honest table, and no bar."""

from dataclasses import replace

import pytest

from tasks.network.architecture import preset
from tasks.network.latency import measure_latency, twins

KERNELS = (3, 5, 7, 9, 15)


@pytest.mark.quick
def test_separable_network_beside_its_standard_twin(benchmark, ledger):
    configs = twins(replace(preset("source"), padding="history"), KERNELS)

    rows = benchmark.pedantic(lambda: measure_latency(configs, 300), rounds=1)

    by_name = {(row.kernel_size, row.runtime, row.block): row for row in rows}
    ledger.tables["dsc_vs_standard"] = [
        {
            "K": kernel,
            "runtime": runtime,
            "MACs DSC": dsc.macs,
            "MACs standard": standard.macs,
            "weights DSC": dsc.parameters,
            "weights standard": standard.parameters,
            "p50 DSC us": dsc.p50_us,
            "p50 standard us": standard.p50_us,
            "p99 DSC us": dsc.p99_us,
            "p99 standard us": standard.p99_us,
            "standard / DSC": standard.p50_us / dsc.p50_us,
        }
        for kernel in KERNELS
        for runtime in ("eager torch", "ONNX Runtime", "engine")
        for dsc, standard in [[by_name[kernel, runtime, block] for block in ("separable", "standard")]]
    ]

    assert len(ledger.tables["dsc_vs_standard"]) == 3 * len(KERNELS)
