"""Data sets by name, wrong labels, and batches that are made on the device.

`load` reads a set into memory once, as bytes, or the names of its images (`Streamed`), and carves a validation part
from its training part; `batches` gives it out in batches, augmented. Nothing here knows of networks.
"""

from convexnet.lab.data.augment import AUGMENTATIONS, augmentation
from convexnet.lab.data.batches import batches, prepared, scaled
from convexnet.lab.data.data_set import DataSet, Part, Split
from convexnet.lab.data.files import CorruptData, DataError, MissingData
from convexnet.lab.data.load import NAMES, fingerprint_of, load, streams
from convexnet.lab.data.noise import KINDS, wrong_labels
from convexnet.lab.data.small import crescents
from convexnet.lab.data.streamed import Streamed
from convexnet.lab.data.user_images import Pictures

__all__ = [
    "AUGMENTATIONS",
    "KINDS",
    "NAMES",
    "CorruptData",
    "DataError",
    "DataSet",
    "MissingData",
    "Part",
    "Pictures",
    "Split",
    "Streamed",
    "augmentation",
    "batches",
    "crescents",
    "fingerprint_of",
    "load",
    "prepared",
    "scaled",
    "streams",
    "wrong_labels",
]
