"""What pure rooms may import: a list of what is allowed, so that nothing creeps in. The floors are import-linter's."""

import sys

import pytest

grimp = pytest.importorskip("grimp", reason="import-linter, which brings it, is not installed")

PACKAGES = ("flows", "tasks", "storage")
SHARED = {"numpy", "annotated_types", "storage.schema", "storage.bounds", "storage.compiled"}
ALLOWED = {
    "tasks.market": SHARED,
    "tasks.execution": SHARED,
    "tasks.network": SHARED
    | {
        "storage.direct_call",
        "torch",
        "numba",
        "llvmlite",
        "onnx",
        "onnxruntime",
        "safetensors",
        "sklearn",
        "lightgbm",
        "threadpoolctl",
    },
}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(*PACKAGES, include_external_packages=True)


@pytest.mark.parametrize("room", ALLOWED)
def test_pure_room_imports_only_what_it_is_allowed_to(graph, room):
    inside = {room, *graph.find_descendants(room)}
    imported = {name for module in inside for name in graph.find_modules_directly_imported_by(module)} - inside
    assert {name for name in imported if name not in sys.stdlib_module_names} <= ALLOWED[room]
