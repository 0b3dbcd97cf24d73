"""A contract for import-linter: what must not be imported as soon as a module is, by any path.

import-linter's own "forbidden" counts an import inside a function as well, and this project has those on purpose: a
command that needs torch imports it when it runs. What counts here is what happens at import.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import grimp
from importlinter import Contract, ContractCheck, fields, output
from importlinter.domain.helpers import module_expressions_to_modules


class ForbiddenAtImport(Contract):
    """``source_modules`` reach none of ``forbidden_modules`` by imports that run when a module is loaded."""

    source_modules = fields.SetField(subfield=fields.ModuleExpressionField())
    forbidden_modules = fields.SetField(subfield=fields.ModuleField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """Look for a chain from each source to each forbidden module, over the imports at load alone."""
        for importer in sorted(m for m in graph.modules if not graph.is_module_squashed(m)):
            for imported in graph.find_modules_directly_imported_by(importer):
                lines = {
                    d["line_number"] for d in graph.get_import_details(importer=importer, imported=imported)
                }
                if lines and lines <= lazy_lines(importer):
                    graph.remove_import(importer=importer, imported=imported)
        # Importing a.b loads a first.
        for module in [m for m in graph.modules if "." in m and not graph.is_module_squashed(m)]:
            parent = module.rpartition(".")[0]
            if parent in graph.modules:
                graph.add_import(importer=module, imported=parent)
        found = []
        sources = module_expressions_to_modules(graph, self.source_modules)  # type: ignore[arg-type]
        for source in sorted(m.name for m in sources):
            for forbidden in self.forbidden_modules:  # type: ignore[attr-defined]
                if forbidden.name in graph.modules and (
                    chain := graph.find_shortest_chain(importer=source, imported=forbidden.name)
                ):
                    found.append(" -> ".join(chain))
        return ContractCheck(kept=not found, metadata={"chains": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """A line a chain."""
        for chain in check.metadata["chains"]:
            output.print_error(chain)


@cache
def lazy_lines(module: str) -> frozenset[int]:
    """Lines of a module that run only when something in it is called, or never (``TYPE_CHECKING``)."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return frozenset()
    return frozenset(_lazy(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))))


def _lazy(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        called = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if called or typing:
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)
