"""The rules of the house, kept by reading the source: floors, sizes, names, docstrings, and what must not be imported.

Every failure is a list of `file:line: what is wrong`, so a person can click their way through it.
"""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

THIS = Path(__file__).resolve()
ROOT = THIS.parents[1]

# A file imports only from its own floor or below.  A room is a package, or a file, directly in vdm_jax/.
FLOORS = [
    {"types", "errors", "config"},
    {"diffusion", "attention", "sharding", "geometry"},
    {"nn"},
    {"models"},
    {"adapters"},
    {"sampling", "perception"},
    {"objectives"},
    {"training", "interop", "evaluation", "media"},
    {"planning"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Rooms with a rule of their own instead of a floor: all they may import of the project, besides themselves.
VOCABULARY = {f"vdm_jax.{room}" for room in ("types", "errors", "config")}
ONLY = {
    "vdm_jax.media": VOCABULARY,
    "data_pipelines": VOCABULARY | {"vdm_jax.geometry", "vdm_jax.media"},
}
PACKAGES = ("vdm_jax", "data_pipelines")
ON_TOP = ("experiments", "configs")  # nothing imports these; the command line loads them by path
# files that exports carry along: data here, and nothing imports them
SHIPPED = "vdm_jax.interop.exporting.torch_modules"
WITHOUT = ("torch", "torchvision", "tensorflow", "transformers", "diffusers", "apache_beam", "cv2", "scenedetect")

MAX_FILE, MAX_FUNCTION = 500, 50  # lines; those of a function without its docstring
FORBIDDEN_WORDS = {"util", "utils", "helper", "helpers", "common", "misc"}
MACHINE_PATH = re.compile(r"(?<![\w.*])/(?:root|home|work|Users)/\w")
TEXT_SUFFIXES = {".py", ".sh", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".j2", ".html", ""}


def source_files(*folders: str) -> list[Path]:
    """Every Python file of the named folders, executables without a suffix included."""
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    return sorted(p for p in files if p.suffix == ".py" or (not p.suffix and "python" in first_line(p)))


def first_line(path: Path) -> str:
    with path.open(errors="replace") as file:
        return file.readline(200)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def at(path: Path, line: int, message: str) -> str:
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{line}: {message}"


def report(broken: list[str]) -> None:
    if broken:
        pytest.fail("\n" + "\n".join(broken), pytrace=False)


def module_name(path: Path) -> str:
    """`vdm_jax/nn/norms.py -> vdm_jax.nn.norms`; a package is named by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, package: str) -> list[tuple[int, str]]:
    """All (line, absolute module) a file imports, wherever in the file; `from a import b` counts as `a.b`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def room_of(module: str) -> str:
    """`vdm_jax.nn.norms -> vdm_jax.nn`; `vdm_jax.__version__ -> vdm_jax`; `data_pipelines.shards -> data_pipelines`."""
    parts = [part for part in module.split(".") if not part.startswith("__")]
    return ".".join(parts[:2]) if parts[0] == "vdm_jax" else parts[0]


def floor_error(importer: str, imported: str) -> str | None:
    """Why the module `importer` must not import the module `imported`, or None if it may."""
    here, there = room_of(importer), room_of(imported)
    if imported.startswith(f"{SHIPPED}."):
        return f"imports {imported}, which is for PyTorch; read it as a file"
    if imported.split(".")[0] in ON_TOP:
        return f"imports {imported}, but nothing may import {' or '.join(ON_TOP)}"
    if imported.split(".")[0] not in PACKAGES or here == there:
        return None
    if here in ONLY:
        allowed = ", ".join(sorted(ONLY[here]))
        return None if there in ONLY[here] else f"imports {imported}, but {here} may import only {allowed}"
    if there == "data_pipelines":
        return None if here == "vdm_jax.cli" else f"imports {imported}, but of vdm_jax only the cli may"
    mine, theirs = (FLOOR_OF.get(room.removeprefix("vdm_jax.")) for room in (here, there))
    if here == "vdm_jax" or there == "vdm_jax":  # the package file itself: the version, and nothing that imports
        return None if there == "vdm_jax" else f"imports {imported}, but vdm_jax/__init__.py imports nothing"
    if mine is None or theirs is None:
        return f"{here if mine is None else there} has no floor; put it into FLOORS, as the design says"
    if theirs > mine:
        return f"imports {imported} of floor {theirs}, from floor {mine}"
    return None


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("vdm_jax.nn.norms", "vdm_jax.types.Array", True),
        ("vdm_jax.diffusion.process", "vdm_jax.nn.norms", False),
        ("vdm_jax.sampling.sampler", "vdm_jax.objectives.denoising", False),
        ("vdm_jax.training.loop", "vdm_jax.evaluation.fvd", True),
        ("vdm_jax.training.loop", "data_pipelines.loading.loader", False),
        ("vdm_jax.cli.train", "data_pipelines.loading.loader", True),
        ("vdm_jax.media.grid", "vdm_jax.models.dit", False),
        ("vdm_jax.media.grid", "vdm_jax.errors.RunError", True),
        ("data_pipelines.worlds.sprites", "vdm_jax.geometry.cameras", True),
        ("data_pipelines.worlds.sprites", "vdm_jax.models.dit", False),
        ("vdm_jax.cli.train", "configs.dit_tiny", False),
        ("vdm_jax.interop.exporting.diffusers", f"{SHIPPED}.dit", False),
        ("vdm_jax.nn.norms", "numpy", True),
        ("vdm_jax.cli.main", "vdm_jax.__version__", True),
        ("vdm_jax", "vdm_jax.types.Array", False),
        ("vdm_jax.no_such_room", "vdm_jax.types.Array", False),
    ],
)
def test_the_floor_rule_itself(importer, imported, allowed):
    assert (floor_error(importer, imported) is None) == allowed


def test_imports_are_found_wherever_they_stand():
    text = "import a.b\ndef f():\n  from c import d\n  from . import e\n  from ..g import h\n"
    assert imports(ast.parse(text), "vdm_jax.nn") == [(1, "a.b"), (3, "c.d"), (4, "vdm_jax.nn.e"), (5, "vdm_jax.g.h")]


def test_every_import_goes_down():
    broken = []
    for path in source_files(*PACKAGES):
        name = module_name(path)
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        for line, imported in imports(tree_of(path), package):
            if error := floor_error(name, imported):
                broken.append(at(path, line, error))
    report(broken)


def test_rooms_are_packages():
    """A folder without `__init__.py` works from a checkout and is missing from the installed package."""
    folders = {p.parent for p in source_files(*PACKAGES)}
    report([at(f / "__init__.py", 1, "is missing") for f in sorted(folders) if not (f / "__init__.py").exists()])


def docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines of a function are its docstring; shapes and errors may take as many as they need."""
    first = function.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(function, clean=False) is not None else 0


def size_errors(path: Path, tree: ast.Module, lines: int) -> list[str]:
    broken = [at(path, MAX_FILE, f"{lines} lines; {MAX_FILE} at most")] if lines > MAX_FILE else []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1 - docstring_lines(node)
            if length > MAX_FUNCTION:
                broken.append(at(path, node.lineno, f"{node.name} has {length} lines; {MAX_FUNCTION} at most"))
    return broken


def test_files_and_functions_fit_on_a_page():
    broken = []
    for path in source_files(*PACKAGES, *ON_TOP, "tools", "tests"):
        broken += size_errors(path, tree_of(path), len(path.read_text().splitlines()))
    report(broken)


def test_the_size_rule_itself():
    text = "def f():\n" + "  pass\n" * MAX_FUNCTION
    assert len(size_errors(ROOT / "x.py", ast.parse(text), MAX_FILE)) == 1
    documented = 'def f():\n  """One.\n\n  Two.\n  """\n' + "  pass\n" * (MAX_FUNCTION - 1)
    assert not size_errors(ROOT / "x.py", ast.parse(documented), MAX_FILE)
    assert len(size_errors(ROOT / "x.py", ast.parse(documented + "  pass\n"), MAX_FILE)) == 1
    assert len(size_errors(ROOT / "x.py", ast.parse("x = 1"), MAX_FILE + 1)) == 1


def bad_name(stem: str) -> bool:
    return stem.startswith("base_") or stem == "base" or bool(FORBIDDEN_WORDS & set(stem.split("_")))


def test_no_drawer_for_odds_and_ends():
    """`utils.py` says nothing about what is in it, so everything ends up there."""
    paths = source_files(*PACKAGES, *ON_TOP, "tools", "tests")
    names = {p: p.stem for p in paths} | {p.parent: p.parent.name for p in paths}
    report([at(p, 1, f"the name {n!r} does not say what is inside") for p, n in sorted(names.items()) if bad_name(n)])
    assert bad_name("video_utils")
    assert bad_name("base_model")
    assert not bad_name("baseline")


def docstring_errors(path: Path, tree: ast.Module) -> list[str]:
    if not tree.body:
        return []
    broken = [] if ast.get_docstring(tree) else [at(path, 1, "the module has no docstring")]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    return broken + [at(path, n.lineno, f"{n.name} has no docstring") for n in public if not ast.get_docstring(n)]


def test_everything_public_has_a_docstring():
    report([e for path in source_files(*PACKAGES, *ON_TOP) for e in docstring_errors(path, tree_of(path))])
    assert len(docstring_errors(ROOT / "x.py", ast.parse("def f(): pass\nclass A: pass\ndef _g(): pass"))) == 3


def test_no_machine_paths():
    """A path of somebody's machine works there and nowhere else."""
    top = [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / ".gitignore"]
    folders = [p for folder in (*PACKAGES, *ON_TOP, "tools", "tests", ".ci") for p in (ROOT / folder).rglob("*")]
    broken = []
    for path in top + folders:
        if not path.is_file() or path.suffix not in TEXT_SUFFIXES or "__pycache__" in path.parts or path == THIS:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := MACHINE_PATH.search(line):
                broken.append(at(path, number, f"a path of one machine: {found[0]}..."))
    report(broken)


@pytest.mark.parametrize(
    ("text", "found"), [("cd /" + "root/x", True), ("https://a.org/" + "home/x", False), ("../" + "work/x", False)]
)
def test_the_machine_path_rule_itself(text, found):
    assert bool(MACHINE_PATH.search(text)) == found


def in_fresh_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_every_module_imports_without_the_extras():
    """Core must import without TensorFlow and PyTorch, and without what only curation at scale needs."""
    modules = [name for p in source_files(*PACKAGES) if not (name := module_name(p)).startswith(f"{SHIPPED}.")]
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({WITHOUT!r}))  # None makes `import torch` an ImportError
for name in {modules!r}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{{name}}: {{error}}")
"""
    done = in_fresh_python(code)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


def test_help_does_not_wait_for_jax():
    """`vdm --help` is typed often and imports nothing heavy."""
    heavy = ("jax", "flax", "numpy", "matplotlib", "tensorflow_datasets")
    code = f"import sys, vdm_jax.cli.main\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = in_fresh_python(code)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stdout + done.stderr


def test_pinned_versions_satisfy_the_declared_ones():
    """The lock of tools/setup and pyproject.toml must not drift apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {}
    for name in ("requirements.txt", "requirements-torch.txt", "requirements-tpu.txt"):
        lines = (ROOT / "tools" / name).read_text().splitlines()
        pins |= {canonicalize_name(n): v for n, _, v in (li.partition("==") for li in lines if "==" in li)}
    extras = project["optional-dependencies"]
    for text in project["dependencies"] + extras["dev"] + extras["torch"] + extras["tpu"]:
        wanted = Requirement(text)
        pinned = pins.get(canonicalize_name(wanted.name))
        assert pinned, f"{text} is in pyproject.toml and has no pin in tools/requirements*.txt"
        assert wanted.specifier.contains(pinned), f"{wanted.name} is pinned to {pinned}, outside of {text}"
