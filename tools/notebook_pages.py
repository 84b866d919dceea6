"""The page of a notebook on the site: the exercises as a learner meets them, the outputs of the solutions, the answers folded.

A source of notebooks/source is run once, as its solution edition, and kept under a name that holds the hash of all that it
depends on: its own text, every module of the package that it imports, directly or not, and the data in their folders.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

import grimp
import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from distar_core.runs.folders import replacing
from tools import build
from tools.build import COLAB_TITLE, LEFT_OUT, edition

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "distar_core"
DRAWS_WITH = ("torch", "numpy", "matplotlib", "diffusers", "transformers")
PLAYGROUND = re.compile(r"\[([^\]]+)\]\((?:\.\./)+docs/web/([^)\s]+)\)")
NOTHING_PREDICTED = re.compile(r"^(\d\d\.\w+): you predicted nothing\n +the run: ", re.MULTILINE)
WARNED = re.compile(r"^\S+\.py:\d+: (\w*Warning: .*\n)(?: +.*\n)?", re.MULTILINE)
"""A warning as Python prints it, with a path of this machine and a line of code that says nothing to a reader."""
IMPORTED = re.compile(rf"^\s*(?:from ({PACKAGE}[\w.]*) import ([^\n]+)|import ({PACKAGE}[\w.]*))", re.MULTILINE)
SECONDS_A_CELL = 1800
QUIET = ["--IPKernelApp.log_level=ERROR"]
"""Otherwise a kernel warns that it listens on this machine's own address."""
INCH, DPI = 96, 144
UNRUN = """```{note}
This page was built without running its notebook, so it shows no results.
```"""


def imported_modules(code: str, graph: grimp.ImportGraph) -> set[str]:
    """Every module of the package that some code imports, directly or not, with the packages that hold them."""
    found: set[str] = set()
    wanted = []
    for module, names, plain in IMPORTED.findall(code):
        wanted += [plain or module, *(f"{module}.{name.split(' as ')[0].strip()}" for name in names.split(","))]
    while wanted:
        module = wanted.pop()
        if module in graph.modules and module not in found:
            found.add(module)
            wanted += [*graph.find_modules_directly_imported_by(module), module.rpartition(".")[0]]
    return found


def fingerprint(source: Path, profile: str, graph: grimp.ImportGraph | None = None) -> str:
    """A hash of what a notebook's outputs depend on."""
    graph = graph or grimp.build_graph(PACKAGE)
    text = source.read_text("utf-8")
    digest = hashlib.sha256(f"{profile}\n{[version(name) for name in DRAWS_WITH]}\n{text}".encode())
    digest.update(Path(build.__file__).read_bytes())
    folders = set()
    for module in sorted(imported_modules(text, graph)):
        place = ROOT.joinpath(*module.split("."))
        folders |= {place} if place.is_dir() else set()
        digest.update((place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_bytes())
    for folder in sorted(folders - {ROOT / PACKAGE}):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kept(source: Path, profile: str, cache: Path) -> tuple[Path, NotebookNode | None]:
    """Where a notebook's outputs are kept, and what is there; nothing if what they depend on has changed."""
    path = cache / f"{source.stem}-{fingerprint(source, profile)}.ipynb"
    return path, nbformat.read(path, as_version=4) if path.exists() else None


def run(source: Path, profile: str, cache: Path) -> NotebookNode:
    """The solution edition with its outputs, from the cache if nothing that it depends on has changed.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; a solution that does not pass its check is a failure.
    """
    path, found = kept(source, profile, cache)
    if found is not None:
        return found
    print(f"running {source.stem}", flush=True)
    notebook = edition(jupytext.read(source), "solution")
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=SECONDS_A_CELL, resources={"metadata": {"path": folder}}, extra_arguments=QUIET
        )
        where = {"DISTAR_PROFILE": profile, "DISTAR_STRICT": "1", "DISTAR_FOLDER": folder, "PYTHONPATH": str(ROOT)}
        client.execute(env=os.environ | where)
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"{source.stem}-*.ipynb"):
        old.unlink()
    with replacing(path) as partial:
        nbformat.write(notebook, partial)
    return notebook


def figure(data: dict[str, str], folder: Path, link: str) -> str:
    """A drawn figure as a file in `folder`, and the HTML that shows it once it comes into view."""
    png = base64.b64decode(data["image/png"])
    name = f"{hashlib.sha256(png).hexdigest()[:16]}.png"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png)
    width, height = (int.from_bytes(png[at : at + 4], "big") * INCH // DPI for at in (16, 20))
    alt = html.escape(data["text/plain"], quote=True)
    return f'<figure><img alt="{alt}" src="{link}/{name}" width="{width}" height="{height}" loading="lazy"></figure>'


def outputs(cell: NotebookNode, folder: Path, link: str) -> list[NotebookNode]:
    """The outputs of a cell for a page: figures as files, no word on predictions that nobody made, no path of this machine."""
    shown = []
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            output = nbformat.v4.new_output("display_data", data={"text/html": figure(output.data, folder, link)})
        elif output.output_type == "stream":
            text = WARNED.sub(r"\1", NOTHING_PREDICTED.sub(r"\1, the run: ", output.text))
            output = nbformat.v4.new_output("stream", name=output.name, text=text)
        shown.append(output)
    return shown


def folded(code: str, prose: str) -> NotebookNode:
    """An answer, closed until it is asked for."""
    lines = f"```python\n{code.strip()}\n```\n\n" if code else ""
    text = f'<details class="solution"><summary>Solution</summary>\n\n{lines}{prose}\n\n</details>'
    return nbformat.v4.new_markdown_cell(text.replace("**Solution.** ", "", 1))


def played(link: re.Match[str]) -> str:
    """A link to a page of docs/web as the pages of the site's folder course have it; that page is none of Sphinx's."""
    text, target = link.groups()
    return f'<a href="../play/{html.escape(target)}">{text}</a>'


def page(source: Path, executed: NotebookNode | None, figures: Path, link: str) -> NotebookNode:
    """The notebook that a page is made of.

    Args:
        source: notebooks/source/NN_slug.py.
        executed: its solution edition with outputs; None for a page without results.
        figures: the folder for its figures.
        link: that folder as the finished page names it.
    """
    read = jupytext.read(source)
    blanks = jupytext.read(source)
    for cell in blanks.cells:
        cell.metadata["tags"] = [tag for tag in cell.metadata.get("tags", []) if tag not in LEFT_OUT["student"]]
    kept = [at for at, cell in enumerate(read.cells) if "instructor" not in cell.metadata.get("tags", [])]
    answers = executed or edition(read, "solution")
    every = edition(blanks, "student").cells
    cells, answer = [], ""
    for at, solved, blank in zip(kept, answers.cells, [every[at] for at in kept], strict=True):
        tags = read.cells[at].metadata.get("tags", [])
        if solved.cell_type == "markdown":
            cells.append(folded(answer, solved.source) if "solution" in tags else blank)
            answer = "" if "solution" in tags else answer
            continue
        shown = nbformat.v4.new_code_cell(blank.source.removeprefix(COLAB_TITLE), metadata={"tags": tags})
        if "exercise" in tags:
            answer = solved.source
        elif "predict" not in tags:
            shown.outputs = outputs(solved, figures, link)
        if "solution" in tags:
            shown.metadata = {
                "tags": ["hide-cell"],
                "mystnb": {"code_prompt_show": "Solution", "code_prompt_hide": "Solution"},
            }
        cells.append(shown)
    assert not answer, f"{source}: the last exercise has no cell tagged solution to fold its answer into"
    stem = source.stem
    editions = (
        f"Download this notebook {{download}}`with blanks <student/{stem}.ipynb>` or {{download}}`with solutions"
        f" <solutions/{stem}.ipynb>`; it needs the [library](../library/install.md)."
    )
    cells.insert(1, nbformat.v4.new_markdown_cell(editions if executed else f"{editions}\n\n{UNRUN}"))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "markdown":
            cell.source = PLAYGROUND.sub(played, cell.source)
    return nbformat.v4.new_notebook(cells=cells, metadata=edition(read, "student").metadata)
