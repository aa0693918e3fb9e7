"""Which part of the project may import which, and what needs no PyTorch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the lowest to the highest: each may import those before it.
ROOMS = (
    *("utils", "data", "plots", "padding", "selective_scan"),
    *("features", "augment", "context", "conditional_norm", "mamba"),
    *("dense_encoder", "dual_path", "ascmamba", "se_trans", "encoders"),
    *("pipeline", "model_folder", "inference", "evaluation"),
    *("teaching", "pseudo_labels", "export", "brain", "distillation"),
    "command_line",
)
# The folders above the package, and what is imported from them by name.
HIGHER = {
    *("recipes", "tests", "benchmarks"),
    *(path.stem for path in (ROOT / "recipes" / "ASC").glob("*.py")),
}
TORCH_FREE = (
    *("data.sessions", "data.splits", "data.place_and_time"),
    *("data.leakage", "command_line"),
)


def imports(folder):
    """The modules that each module in a folder imports."""
    files = {
        ".".join(
            path.relative_to(folder.parent).with_suffix("").parts
        ).removesuffix(".__init__"): path
        for path in folder.rglob("*.py")
    }
    graph = {}
    for module, path in files.items():
        names = graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    names.add(name if name in files else node.module)
    return graph


def test_rooms_import_lower_rooms_only():
    graph = imports(ROOT / "ascmamba_modules")
    list(TopologicalSorter(graph).static_order())  # raises on a circle
    rooms = {
        module: ROOMS.index(module.split(".")[1])  # ValueError: add it above
        for module in graph
        if module != "ascmamba_modules"
    }
    for module, room in rooms.items():
        for name in graph[module]:
            assert rooms.get(name, room) <= room, f"{module} imports {name}"
            top = name.split(".")[0]
            assert top not in HIGHER, f"{module} imports {name}"


def test_scripts_import_no_scripts():
    folder = ROOT / "recipes" / "ASC"
    # As in SpeechBrain's recipes, functions of prepare_*.py may be called.
    scripts = {
        path.stem
        for path in folder.glob("*.py")
        if "__main__" in path.read_text("utf-8")
        and not path.stem.startswith("prepare_")
    }
    for module, names in imports(folder).items():
        assert not names & scripts, f"{module}: {names & scripts}"


def test_text_needs_no_torch():
    modules = ", ".join(f"ascmamba_modules.{name}" for name in TORCH_FREE)
    subprocess.run(
        [
            *(sys.executable, "-c"),
            f"import sys, {modules}; sys.exit('torch' in sys.modules)",
        ],
        cwd=ROOT,
        check=True,
    )
