"""A template for plugins: copy it, and change what `call` does.

    rt = nbffi.load{ language = "python", entry = "template:Words", path = ... }
    rt:call("to be or not to be")       --> {"to": 2, "be": 2, "or": 1, "not": 1}
"""

import collections
import json

import nonblocking_ffi as nbffi


class Words:
    def init(self, config: str) -> None:
        """Once, when the runtime is loaded; `config` is load's option."""
        self.most = int(config or 10)

    def call(self, request: bytes) -> str:
        """Once for each request, in several threads at a time."""
        words: collections.Counter = collections.Counter()
        for line in request.decode().splitlines():
            if nbffi.cancelled():
                raise nbffi.Error(499, "nobody waits any more")
            words.update(line.lower().split())
        return json.dumps(dict(words.most_common(self.most)))

    def close(self) -> None:
        nbffi.log("the end")
