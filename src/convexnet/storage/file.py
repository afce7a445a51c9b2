"""Writing a model to a file that is whole or not there, and reading it back without running what it says."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convexnet.storage.modules import describe_model, rebuild_model

FORMAT = "convexnet.model/1"
KEY = "convexnet"
"""Where the recipe lies in the safetensors metadata."""

LIMIT = 90_000_000
"""Bytes of the description; safetensors writes headers of more than a hundred million and refuses to read them."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model, architecture and all, to one safetensors file; no pickle and no code.

    Kept are the classes by import path, all attributes that are data, parameters and buffers with their flags and what
    they share, training flags, parametrisations, hooks that are importable functions, and the constraint, so that the
    loaded model computes the same bits, trains the same and is constrained the same. Not kept: gradients, the identity
    of lists and dictionaries that two modules share, and wrappers (`torch.compile`, DataParallel, DDP), whose inner
    module is saved. The file is written beside its place and then renamed: a save that fails leaves the old one whole.

    Args:
        model: any module made of importable classes. Those of a script or notebook itself (`__main__`) are saved with
            a warning, for no other script can load them.
        path: of the file, usually `*.safetensors`; its folder must exist.

    Raises:
        TypeError: something in the model has no description as data (a lambda, a local function, an unknown object, a
            hook that is none of the above); the message names its path in the model and the remedy.
        FileNotFoundError, IsADirectoryError: the path cannot be a file.
        ModuleNotFoundError: safetensors is not installed.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(net, f"{folder}/net.safetensors")
        ...     same = load(f"{folder}/net.safetensors")
        >>> x = torch.randn(4, 2)
        >>> type(same[1]).__name__, torch.equal(same(x), net(x))
        ('ReLU', True)
    """
    tensor_files = import_safetensors("safetensors.torch", "save")
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder: name the file in it, as model.safetensors")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target} cannot be written: there is no folder {target.parent}; make it first")
    recipe, tensors = describe_model(model)
    classes = [entry["class"] for entry in recipe["modules"]]
    text = json.dumps({"format": FORMAT, "versions": versions_of_packages(classes), **recipe}, allow_nan=False)
    note_scripts(classes, target)
    size = len(json.dumps(text))  # as it stands in the header, with its quotes escaped
    if size > LIMIT:
        raise ValueError(
            f"the description of the model has {size} bytes, and the header of a safetensors file takes {LIMIT}: keep "
            "long lists of numbers as tensors"
        )
    part = target.with_name(f".convexnet-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        tensor_files.save_file(tensors, str(part), metadata={KEY: text})
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name too
        finally:
            os.close(folder)


def load(path: str | os.PathLike[str], allow: Sequence[str] = (), device: str | torch.device = "cpu") -> nn.Module:
    """Read a model that `save` wrote.

    What is promised about a file of unknown origin: it is data. Loading imports modules of torch, torchvision, timm,
    convexnet and the packages in `allow`, and nothing else; it calls no constructor and no function that the file
    names. A rebuilt module is of a class defined in `torch.nn`, torchvision's models, ops or transforms, timm's models
    or layers, convexnet, or an allowed package; the functions that its attributes and hooks may name are operators and
    functions of tensors, from the lists in `convexnet.storage.trust`: nothing that reads, writes, downloads, compiles
    or evaluates. What is not promised: that the model is any good, that it runs in little memory or time, that a kernel
    of torch survives every shape and number, nor anything about what an allowed package does: `allow` trusts all
    functions and classes in it.

    Args:
        path: of the file.
        allow: packages or modules whose classes and functions the file may use too, such as ("mypackage",); classes
            of a script or notebook are in `"__main__"`.
        device: where the tensors shall lie.

    Returns:
        The model, in the mode (training or evaluation) it was saved in.

    Raises:
        ValueError: the file is damaged or not a model file, names a class or function that is not trusted or no longer
            exists, or is of a newer format.
        FileNotFoundError: there is none.
        ModuleNotFoundError: safetensors is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(nn.Linear(2, 1).eval(), f"{folder}/line.safetensors")
        ...     load(f"{folder}/line.safetensors").training
        False
    """
    tensor_files = import_safetensors("safetensors", "load")
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"{source} is {'a folder' if source.is_dir() else 'not there'}: load takes a file")
    place = require_device(device)
    packages = (allow,) if isinstance(allow, str) else tuple(allow)
    try:
        with tensor_files.safe_open(str(source), framework="pt", device="cpu") as file:
            recipe = recipe_of(file.metadata() or {}, source)
            note_versions(recipe["versions"])
            return rebuild_model(recipe, list(file.keys()), file.get_tensor, packages, place)
    except torch.OutOfMemoryError:
        raise
    except tensor_files.SafetensorError as error:
        if is_pickled(source):
            raise ValueError(
                f"{source} is not a safetensors file but one of torch.save, a pickle, which can run code when it is "
                "read: build the model, then model.load_state_dict(torch.load(path, weights_only=True)), and from "
                "then on convexnet.save(model, path). If it holds a whole module and you trust its author, "
                "torch.load(path, weights_only=False) reads it"
            ) from error
        raise ValueError(f"{source} is not a safetensors file, or a truncated or corrupt one: {error}") from error
    except ValueError as error:
        raise ValueError(f"{source} cannot be loaded: {error}") from error
    except (AttributeError, KeyError, IndexError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(
            f"{source} is damaged: its recipe does not describe a model ({type(error).__name__}: {error})"
        ) from error


def is_pickled(source: Path) -> bool:
    """Whether a file begins as those of torch.save do: an archive, or before torch 1.6 a pickle.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({}, f"{folder}/weights.pt")
        ...     is_pickled(Path(folder) / "weights.pt")
        True
    """
    with source.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def note_scripts(classes: Sequence[str], target: Path) -> None:
    """Say so where a class is known to the present script alone, so that no other one can load the file."""
    own = sorted({path.partition(":")[2] for path in classes if path.startswith("__main__:")})
    if own:
        warnings.warn(
            f"{target}: {', '.join(own)} {'is a class' if len(own) == 1 else 'are classes'} of this script or notebook "
            f"(__main__), and no other one can load the file: put {'it' if len(own) == 1 else 'them'} into a module, "
            "import from there and save again. Here, load(path, allow=('__main__',)) reads the file",
            stacklevel=3,
        )


def recipe_of(found: dict[str, str], source: Path) -> dict[str, Any]:
    """The recipe in the metadata of a file."""
    if KEY not in found:
        raise ValueError(
            "it holds tensors but no recipe of a model, so that it was not written by convexnet.save; if they are a "
            "state_dict, build the model and use model.load_state_dict(safetensors.torch.load_file(path))"
        )
    recipe = json.loads(found[KEY])
    version = recipe.get("format")
    if version != FORMAT:
        raise ValueError(
            f"its format is {version!r} and this convexnet reads {FORMAT!r}: install the one that wrote it"
        )
    return recipe


def versions_of_packages(classes: Sequence[str]) -> dict[str, str]:
    """The versions of the packages that a model is made of."""
    found: dict[str, str] = {}
    for package in sorted({"convexnet", "torch", *(path.split(".")[0].split(":")[0] for path in classes)}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # a module of the user's, not a distribution
    return found


def note_versions(recorded: dict[str, str]) -> None:
    """Say so where a package differs in more than its patch number: attributes may have changed their meaning."""
    present = versions_of_packages([*recorded])
    differ = [
        f"{package} {then}, here {present[package]}"
        for package, then in recorded.items()
        if package != "convexnet" and package in present and then.split(".")[:2] != present[package].split(".")[:2]
    ]
    if differ:
        warnings.warn(f"the model was saved with {'; '.join(differ)}: compare an output", stacklevel=3)


def import_safetensors(module: str, verb: str) -> Any:
    """A module of safetensors, which only these two functions need."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"convexnet.{verb} needs safetensors: pip install safetensors") from error


def require_device(device: str | torch.device) -> torch.device:
    """A device, if it is there."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {str(device)!r} is not here, use device='cpu': {error}") from error
