"""Which modules of Python's standard library are most alike? The job of `remora demo`, in its shortest form."""

import ast
from collections import Counter
from pathlib import Path

import numpy as np

import remora as ray


@ray.remote
def count_names(path):
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # some files are there to test the parser
        return Counter()
    return Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


@ray.remote
def compare(matrix, first, last):  # the matrix arrives as a read-only view of the store: nothing is copied
    likeness = np.tril(matrix[first:last] @ matrix.T, first - 1)
    return [(likeness[row, col], first + row, col) for row, col in np.argwhere(likeness > 0.75).tolist()]


@ray.remote
class Best:
    def __init__(self):
        self.pairs = []

    def add(self, pairs):
        self.pairs = sorted(self.pairs + pairs, reverse=True)[:20]

    def get(self):
        return self.pairs


library = Path(ast.__file__).parent
paths = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
counted = zip(paths, ray.get([count_names.remote(path) for path in paths]))
modules = [(path.relative_to(library), names) for path, names in counted if len(names) > 40]
used_by = Counter(name for _, names in modules for name in names)
columns = {name: column for column, name in enumerate(name for name in used_by if used_by[name] > 2)}
matrix = np.zeros((len(modules), len(columns)), dtype=np.float32)
for row, (_, names) in enumerate(modules):
    for name in names.keys() & columns.keys():
        matrix[row, columns[name]] = (1 + np.log(names[name])) * np.log(len(modules) / used_by[name])
matrix_ref = ray.put(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))  # once, for all tasks

best = Best.remote()
ray.get([best.add.remote(compare.remote(matrix_ref, row, row + 50)) for row in range(0, len(modules), 50)])
for likeness, one, other in ray.get(best.get.remote()):
    print(f"{likeness:.3f}  {modules[one][0]} and {modules[other][0]}")
