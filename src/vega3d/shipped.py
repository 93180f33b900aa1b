"""Names without paths: the embedded models, the example clips, and where the files of a model lie."""

import json
from importlib.resources import files
from pathlib import Path

EMBEDDED = ("vega3d-tiny",)  # it answers questions
POLICIES = ("vega3d-metaworld",)  # for `vega3d act`
SHIPPED = EMBEDDED + POLICIES
HUB_SAYS = {
    401: "The token is missing or not valid. Log in with `hf auth login`, or set HF_TOKEN.",
    403: "The token may not do this. Give one that may, with `hf auth login` or HF_TOKEN.",
    404: "There is no such file.",
    412: "Somebody has changed it meanwhile. Look at it, and try again.",
    429: "The Hub gets too many requests. Try again in some minutes.",
}
MODEL_TYPE = "vega3d"  # of `VegaConfig`, which takes seconds to import
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")  # which run code when they are read
ASSETS = Path(str(files("vega3d"))) / "assets"


def example_clip(name: str) -> Path:
    """Path of a shipped clip, such as `room`; raises ValueError if there is none of this name."""
    clips = {path.stem: path for path in sorted((ASSETS / "clips").glob("*.mp4"))}
    if name not in clips:
        raise ValueError(f"There is no example clip {name!r}. Shipped are {', '.join(clips)}.")
    return clips[name]


def posed_clip(name: str) -> Path:
    """Folder of a shipped clip with depth and poses, such as `kitchen`; raises ValueError if there is none."""
    clips = {path.name: path for path in sorted((ASSETS / "clips").iterdir()) if path.is_dir()}
    if name not in clips:
        raise ValueError(f"There is no posed clip {name!r}. Give a folder; shipped are {', '.join(clips)}.")
    return clips[name]


def model_folder(name_or_path: str | Path, within: str = "") -> Path:
    """Local folder of a checkpoint; one on the Hub is downloaded first, `org/name` or `org/name@REVISION`.

    Where the checkpoint is a folder `within` it, such as that of a policy of LeRobot, the outer one is returned.

    Raises ValueError if there is none; on the Hub, also for another kind of model, before its weights are downloaded.
    """
    name, config = str(name_or_path), f"{within}/config.json" if within else "config.json"
    if name in SHIPPED:
        return ASSETS / name
    if Path(name).is_dir():
        if not (Path(name) / config).is_file():
            raise ValueError(f"{name} is no checkpoint: it has no {config}. Give the folder that was saved.")
        check_regular(Path(name) / within)
        return Path(name)
    remedy = f"Give {EMBEDDED[0]!r}, a folder, or the id of a repository such as 'org/vega3d'."
    repository, _, revision = name.partition("@")
    if Path(name).exists() or repository.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(f"There is no model {name!r}. {remedy}")
    from huggingface_hub import snapshot_download

    def fetched(revision: str | None, **patterns) -> Path:
        try:
            return Path(snapshot_download(repository, revision=revision, **patterns))
        except Exception as error:  # of the network, too, whose errors have no common class
            raise ValueError(f"The model {name!r} cannot be downloaded: {hub_reason(error)} {remedy}") from error

    folder = fetched(revision or None, allow_patterns=config)
    check_kind(folder / config, name)
    return fetched(folder.name, ignore_patterns=[f"*{ending}" for ending in PICKLES])


def check_kind(config: Path, name: str) -> None:
    """Raises ValueError unless a config that was downloaded is that of a fused model."""
    if not config.is_file():
        raise ValueError(f"{name} is no checkpoint: it has no config.json. Give that of a fused model.")
    try:
        values = json.loads(config.read_bytes())
    except ValueError as error:
        raise ValueError(f"The config.json of {name} is no JSON: {error}. Give another checkpoint.") from error
    if not isinstance(values, dict):
        raise ValueError(f"The config.json of {name} holds no names with values. Give another checkpoint.")
    if values.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{name} is a model of the type {values.get('model_type')!r}, not {MODEL_TYPE!r}. Make a fused model of "
            "it with `vega3d assemble`, or with `vega3d convert` if it is an official checkpoint of VEGA-3D."
        )


def hub_reason(error: Exception) -> str:
    """Why the Hub did not do what it was asked for, and what helps, in one line."""
    from huggingface_hub import errors

    cause: BaseException | None = error
    while isinstance(cause, errors.LocalEntryNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__  # what kept the client from looking beyond its cache
    if isinstance(cause, errors.GatedRepoError):
        return "It is gated. Ask for access on its page, and log in with `hf auth login`."
    if isinstance(cause, errors.RepositoryNotFoundError):
        return "There is no such repository, or it is private and the token may not read it."
    if isinstance(cause, errors.RevisionNotFoundError):
        return "It has no such revision."
    if isinstance(cause, errors.HfHubHTTPError) and cause.response is not None:
        status = cause.response.status_code
        other = "The Hub has a fault. Try again later." if status >= 500 else "The Hub refuses."
        return f"{HUB_SAYS.get(status, other)} ({status}: {cause.server_message or 'no reason given'})"
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "It is not in the cache, and HF_HUB_OFFLINE is set."
    said = " ".join(str(cause).split()) or type(cause).__name__
    return f"{said.removesuffix('.')}."


def check_regular(folder: Path) -> None:
    """Raises ValueError for a folder or a pipe in the place of a file: loaders take it for one that is not there."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors") and not path.is_file():
            raise ValueError(f"{path} is no regular file. Copy the checkpoint again.")
