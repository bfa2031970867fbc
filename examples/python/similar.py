"""Finds similar things: the nearest of many vectors, with numpy.

What stands behind recommendations, "more like this" and search by meaning: a
model has made a vector of each thing; the nearest vectors, by the cosine of the
angle between them, are the most similar things.

The configuration is the path of a `.npy` file with a matrix, one vector in each
row; or `random <rows>x<columns>`, to try it. A request is one vector or several,
as JSON: `{"vectors": [[...], ...], "most": 5}`. The response has the rows and
the cosines for each: `[[[17, 0.93], [4, 0.87], ...], ...]`.

numpy multiplies matrices without Python's lock: threads work at the same time.
"""

import json

import numpy

import nonblocking_ffi as nbffi


class Index:
    def init(self, config: str) -> None:
        kind, _, shape = config.partition(" ")
        if kind == "random":
            rows, columns = map(int, shape.split("x"))
            matrix = numpy.random.default_rng(1).normal(size=(rows, columns))
        else:
            matrix = numpy.load(config, allow_pickle=False)
        if matrix.ndim != 2 or matrix.size == 0:
            raise ValueError("a matrix is expected, one vector in each row")
        self.matrix = normalize(matrix.astype(numpy.float32))
        rows, columns = matrix.shape
        nbffi.log(f"{rows} vectors of {columns} numbers", "notice")

    def call(self, request: bytes) -> str:
        try:
            asked = json.loads(request)
            vectors = numpy.array(asked["vectors"], dtype=numpy.float32)
            most = min(int(asked.get("most", 5)), len(self.matrix))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise nbffi.Error(400, f"bad request: {error}") from error
        columns = self.matrix.shape[1]
        if vectors.ndim != 2 or vectors.shape[1] != columns or most < 1:
            raise nbffi.Error(400, f"bad request: vectors of {columns} numbers "
                                   "are expected, and most at least 1")
        cosines = normalize(vectors) @ self.matrix.T
        # The most similar ones, and only these in order.
        rows = numpy.argpartition(-cosines, most - 1, axis=1)[:, :most]
        found = []
        for cosine, row in zip(cosines, rows):
            row = row[numpy.argsort(-cosine[row])]
            found.append([[int(i), round(float(cosine[i]), 4)] for i in row])
        return json.dumps(found)


def normalize(matrix: "numpy.ndarray") -> "numpy.ndarray":
    """The same directions, with length 1."""
    lengths = numpy.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / numpy.maximum(lengths, 1e-12)
