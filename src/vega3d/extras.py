"""Packages that only some uses of vega3d need: imported when they are used, and named by their extra if missing."""

import importlib.util
from types import ModuleType

EXTRAS = {  # module: the extra of vega3d that installs it
    "embreex": "rooms",
    "scipy": "rooms",
    "moderngl": "render",
    "matplotlib": "plots",
    "pyarrow": "tables",
    "datasets": "train",
    "peft": "train",
    "gradio": "demo",
    "fastapi": "serve",
    "uvicorn": "serve",
    "openai": "serve",
    "bitsandbytes": "quant",
    "torchao": "torchao",
    "vllm": "vllm",
    "pycocoevalcap": "meteor",
    "metaworld": "robot",
    "mujoco": "robot",
}


class MissingExtraError(ImportError):
    """The error that a package which the base install leaves out is not installed; its message names the extra."""


def optional_module(name: str) -> ModuleType:
    """The module of this name, such as `matplotlib.figure`; raises MissingExtraError if it is not installed."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise missing_extra(package) from error


def check_installed(*packages: str) -> None:
    """Raises MissingExtraError for the first of these packages that is not installed; none is imported."""
    for package in packages:
        if not is_installed(package):
            raise missing_extra(package)


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def missing_extra(package: str) -> MissingExtraError:
    return MissingExtraError(
        f"This needs the package {package}, which is not installed. Run: pip install 'vega3d[{EXTRAS[package]}]'",
        name=package,
    )
