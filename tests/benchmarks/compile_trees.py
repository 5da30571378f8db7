"""Compile a LightGBM model to shared libraries with lleaves and TL2cgen: `python compile_trees.py MODEL FOLDER`.

It runs in an environment of its own (`REQUIREMENTS`): lleaves wants an older llvmlite than Numba does. The last line of
its output is one line of JSON: the libraries by compiler, and what went wrong with the others. In each is
`forest_root(row, out, 0, 1)`, which takes F doubles and writes K probabilities.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

REQUIREMENTS = ("lleaves==1.3.0", "llvmlite==0.44.0", "tl2cgen==1.0.0", "treelite==4.1.2", "setuptools")
_ROW = """
void get_num_class(int *out);
void predict(void *row, int margin, double *out);

void forest_root(void *row, double *out, int start, int stop) {
  int classes = 0;
  get_num_class(&classes);
  for (int k = 0; k < classes; k++) out[k] = 0.0;  /* it adds to what is there */
  predict(row, 0, out);
}
"""
_FLAGS = ("-O3", "-march=native", "-fPIC", "-shared")


def with_lleaves(model: Path, folder: Path) -> Path:
    """Return a library made by lleaves, whose name for its function all others take over."""
    import lleaves  # type: ignore[import-not-found,unused-ignore]  # of the other environment

    built, library = folder / "lleaves.o", folder / "lleaves.so"
    forest = lleaves.Model(model_file=str(model))
    forest.compile(cache=str(built))  # one block of all trees would save a row 2 %, and compile for a minute more
    return _linked([str(built)], library)


def with_tl2cgen(model: Path, folder: Path) -> Path:
    """Return a library made by TL2cgen and the C compiler."""
    import tl2cgen  # type: ignore[import-not-found,unused-ignore]  # of the other environment
    import treelite  # type: ignore[import-not-found,unused-ignore]

    source, library = folder / "tl2cgen", folder / "tl2cgen.so"
    tl2cgen.generate_c_code(treelite.frontend.load_lightgbm_model(str(model)), dirpath=str(source), params={})
    (source / "row.c").write_text(_ROW)
    files = [str(file) for file in source.glob("*.c")]
    return _linked(files, library)


def _linked(files: list[str], library: Path) -> Path:
    command = ["cc", *_FLAGS, *files, "-o", str(library), "-lm"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - its files were made above
    return library


def compile_all(model: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Return {"libraries": compiler -> path, "failed": compiler -> why}."""
    compilers: dict[str, Callable[[Path, Path], Path]] = {"lleaves": with_lleaves, "TL2cgen": with_tl2cgen}
    libraries: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, compiled in compilers.items():
        try:
            libraries[name] = str(compiled(model, folder))
        except Exception as err:  # whatever stops one compiler, the other may do
            failed[name] = f"{type(err).__name__}: {err}"
    return {"libraries": libraries, "failed": failed}


if __name__ == "__main__":
    print(json.dumps(compile_all(Path(sys.argv[1]), Path(sys.argv[2]))))
