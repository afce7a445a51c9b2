"""Models in files without pickle: the tensors as safetensors, the architecture as a JSON recipe in the same file.

Read in this order: `trust` (what a file may name), `values` (attributes as JSON and back), `tensors` (what lies in
memory, and what shares it), `modules` (the tree), `file` (`save` and `load`).
"""

from convexnet.storage.file import load as load
from convexnet.storage.file import save as save
