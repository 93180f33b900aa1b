"""What a push takes to the Hub, from a model's folder, a data set of rooms, or the demo: checked, and nothing else."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from vega3d import VegaConfig
from vega3d.files import read_json
from vega3d.hub.load import check_known_keys, load_processor
from vega3d.hub.memory import task_of
from vega3d.hub.tensor_files import Stored, stored_tensors
from vega3d.hub.weight_checks import check_weights
from vega3d.modeling.files_vega3d import COPY_AGAIN, INDEX, PARTS, value_errors, weight_files
from vega3d.publishing import card, scores
from vega3d.rooms.dataset.files import ARRAYS, is_whole_archive, is_whole_video
from vega3d.shipped import EMBEDDED, PICKLES, model_folder

Kind = Literal["model", "dataset", "space"]
PACKAGE = Path(str(package_files("vega3d")))
SPACE = PACKAGE / "demo" / "space"
CODE = re.compile(r"\w+_vega3d\.py")
STEM = "diffusion_pytorch_model"  # of the generator's weights
NAMES = (  # of the files that transformers writes for a model and its processor, and those beside them
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "scores.json"),
    *("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE"),
)
SAVE_AGAIN = (
    "Save it with its code: `session = vega3d.load(FOLDER); session.model.save_pretrained(NEW); "
    "session.processor.save_pretrained(NEW)`, and push NEW."
)
PLACEHOLDER = "PATH_OF_THIS_FOLDER"  # in the card of a data set
NOT_IN_SPACE = (
    "demo/space",
    "assets/furniture",
    "assets/text_prior.json.xz",
    "assets/vega3d-metaworld",
    "assets/vega3d-tiny",
)


@dataclass(frozen=True)
class Content:
    """What one push takes to the Hub.

    Attributes:
        kind: of the repository that it goes to, as huggingface_hub names it.
        files: by their path there, a file here, or the bytes themselves.
        license: as the Hub names it.
        base_models: Hub ids of the pretrained models.
        left_out: what else lies in the folder.
        notes: what the user should know before.
    """

    kind: Kind
    files: Mapping[str, Path | bytes]
    license: str
    base_models: Sequence[str] = ()
    left_out: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size
            for name, file in sorted(self.files.items())
        }


# --- Models ----------------------------------------------------------------------------------------------------------


def model_content(
    folder: Path,
    repo_id: str,
    license: str | None = None,
    base_models: Sequence[str] = (),
    results: Sequence[Path] = (),
    datasets: Mapping[str, str] | None = None,
) -> Content:
    """A checkpoint with its card and results.

    Args:
        folder: as `save_pretrained` wrote it.
        repo_id: where it goes.
        license: by default that of the card in the folder, or of all `base_models`.
        base_models: Hub ids of VLM and generator; by default those that the card in the folder names.
        results: files of `vega3d evaluate`; by default those in the folder.
        datasets: Hub ids of benchmarks, for `.eval_results`.

    Raises:
        ValueError: if it is no whole checkpoint that loads by itself, or something unpickled or unknown is in it.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Give the folder of a checkpoint.")
    model_folder(folder)
    config = checked_config(folder)
    check_pickles(folder, config)
    files = dict(model_files(folder, config))
    check_code(folder, files)
    weights = checked_weights(folder, files, config)
    try:
        load_processor(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"The processor of {folder} does not load: {error} {COPY_AGAIN}") from error
    own = card.read_card(folder)
    recorded = (own.data.get("base_model") or []) if own is not None else []
    bases = list(base_models) or ([recorded] if isinstance(recorded, str) else list(recorded))
    named = card.license_of(folder, license, bases)
    benchmarks = scores.read_benchmarks(list(results) or scores.found_results(folder), config)
    unknown = sorted((datasets or {}).keys() - {benchmark.name for benchmark in benchmarks})
    if unknown:
        raise ValueError(f"--eval-dataset names {unknown[0]}, of which there is no result. Give one with --results.")
    facts = card.CardFacts(repo_id, task_of(config), named, bases, benchmarks, datasets or {})
    text = card.model_card(folder, config, weights, facts)
    pushed: dict[str, Path | bytes] = {**files, **scores.eval_files(benchmarks, datasets or {})}
    notes = list(notes_on(named, bases, benchmarks, datasets or {}, own is not None))
    return Content("model", pushed | {card.NAME: text.encode()}, named, bases, left_out(folder, pushed), notes)


def checked_config(folder: Path) -> VegaConfig:
    """The config of a checkpoint; raises ValueError for another kind of model, or for keys that nothing reads."""
    values = read_json(folder / "config.json")
    if values.get("model_type") != VegaConfig.model_type:
        raise ValueError(
            f"{folder} holds a model of the type {values.get('model_type')!r}, but `vega3d push` takes fused models "
            f"({VegaConfig.model_type!r}). Make one with `vega3d assemble`."
        )
    check_known_keys(folder)
    config = VegaConfig.from_pretrained(folder)
    source = config.generator_config.source
    if Path(source).is_absolute():
        raise ValueError(
            f"The generator of {folder} lies in {source} on this machine, where nobody else finds it. Set "
            "generator_config.source to a Hub id, or assemble the model with its generator inside."
        )
    return config


def model_files(folder: Path, config: VegaConfig) -> Iterator[tuple[str, Path]]:
    """The files of a checkpoint by their path in it."""
    own = names_in(folder)
    weights = weight_files(folder, "model", own, folder)
    index = [] if weights == ["model.safetensors"] else [f"model{INDEX}"]
    for name in own:
        if name in (*NAMES, *weights, *index) or CODE.fullmatch(name):
            yield name, folder / name
    if config.generator_config.is_relative:
        for part in PARTS:
            place = folder / config.generator_config.source / part
            for name in names_in(place):
                if name.endswith((".json", ".safetensors")):
                    yield f"{config.generator_config.source}/{part}/{name}", place / name


def names_in(folder: Path) -> list[str]:
    """Names of the regular files in a folder, which may be missing."""
    return sorted(file.name for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []


def check_pickles(folder: Path, config: VegaConfig) -> None:
    places = [folder, *(folder / config.generator_config.source / part for part in PARTS)]
    for file in (place / name for place in places for name in names_in(place)):
        if file.suffix in PICKLES:
            raise ValueError(
                f"{file} is a pickle, which runs code when it is read, so it is not pushed. Move it away, and save "
                "weights as safetensors (`save_pretrained`)."
            )


def check_code(folder: Path, files: Mapping[str, Path]) -> None:
    """Raises ValueError unless configs name the model's code, and all of it is there, siblings included."""
    for name, wanted in (("config.json", ("AutoConfig", "AutoModel")), ("processor_config.json", ("AutoProcessor",))):
        auto_map = read_json(folder / name).get("auto_map")
        missing = [key for key in wanted if not isinstance(auto_map, dict) or not isinstance(auto_map.get(key), str)]
        if missing:
            raise ValueError(
                f"{folder / name} has no auto_map of {missing[0]}, so transformers alone cannot load it. {SAVE_AGAIN}"
            )
        for reference in (auto_map or {}).values():
            module = f"{str(reference).partition('.')[0]}.py"
            if module not in files:
                raise ValueError(
                    f"{folder / name} names the code {module}, which is no file of vega3d there. {SAVE_AGAIN}"
                )
    code = {name for name in files if name.endswith(".py")}
    for name in sorted(code):
        siblings = re.findall(r"^\s*from \.(\w+) import", (folder / name).read_text(encoding="utf-8"), re.MULTILINE)
        lacking = sorted({f"{sibling}.py" for sibling in siblings} - code)
        if lacking:
            raise ValueError(f"{folder / name} needs {lacking[0]}, which is not there. {SAVE_AGAIN}")


def checked_weights(folder: Path, files: Mapping[str, Path], config: VegaConfig) -> Stored:
    """All weights but the generator's, from their headers; raises ValueError if some are missing or cut short."""
    found = stored_tensors(file for name, file in files.items() if "/" not in name and file.suffix == ".safetensors")
    generator = config.generator_config
    if generator.is_relative:
        for part in PARTS:
            place = folder / generator.source / part
            stored_tensors(place / name for name in weight_files(place, STEM, names_in(place), place))
    if config.to_dict().get("quantization_config") is None:
        with torch.device("meta"), value_errors(f"The config of {folder}"):
            model: Any = task_of(config)(config)
        expected = model.state_dict()
        for name in model.all_tied_weights_keys.keys() - found.keys():
            expected.pop(name, None)
        check_weights(found, expected, str(folder))
    return found


def notes_on(
    license: str,
    base_models: Sequence[str],
    benchmarks: Sequence[scores.Benchmark],
    datasets: Mapping[str, str],
    has_card: bool,
) -> Iterator[str]:
    if not base_models:
        yield "no pretrained models are named; --base-model names them"
    for name in base_models:
        theirs = card.BASE_LICENSES.get(name)
        if theirs is not None and theirs not in (license, card.APACHE):
            yield f"{name} has the licence {theirs}; see whether it allows {license}"
    if has_card:
        yield "the text of README.md is kept as it is; results and licence go into its metadata"
    if not benchmarks:
        yield "no measured results; --results adds those of `vega3d evaluate`"
    for benchmark in benchmarks:
        if scores.dataset_of(benchmark.name, datasets) is None:
            yield f"{benchmark.name} is in no .eval_results, as its data set is not named; --eval-dataset names it"
        elif not benchmark.is_whole:
            yield f"{benchmark.name} is in no .eval_results, as only {benchmark.questions} questions were asked"


def left_out(folder: Path, files: Mapping[str, Any]) -> list[str]:
    """What lies in a folder and is not pushed; of folders that are left out whole, their name alone."""
    pushed = {card.NAME, *files}
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not any(name.startswith(f"{path.name}/") for name in pushed):
            found.append(f"{path.name}/")
        elif path.is_dir():
            inside = (file.relative_to(folder).as_posix() for file in sorted(path.rglob("*")) if file.is_file())
            found += [name for name in inside if name not in pushed]
        elif path.name not in pushed:
            found.append(path.name)
    return found


# --- Data sets -------------------------------------------------------------------------------------------------------


def dataset_content(folder: Path, repo_id: str) -> Content:
    """A data set of `vega3d synthesize` with its card; raises ValueError if it is another folder, or not finished."""
    settings, counts = folder / "settings.json", folder / "statistics.json"
    if not settings.is_file():
        raise ValueError(
            f"{folder} is no data set of rooms: it has no settings.json. Make one with `vega3d synthesize`."
        )
    unfinished = f"{folder} is not finished. Run its `vega3d synthesize` command again, which goes on."
    if not counts.is_file() or not (folder / card.NAME).is_file():
        raise ValueError(unfinished)
    has_videos, wanted = read_json(settings).get("videos"), read_json(counts).get("walkthroughs")
    videos, arrays = sorted(folder.glob("rooms/*.mp4")), sorted(folder.glob("arrays/*.npz"))
    if has_videos and not (len(videos) == len(arrays) == wanted):
        raise ValueError(
            f"{unfinished} It has {len(videos)} videos and {len(arrays)} arrays of {wanted} walkthroughs."
        )
    broken = [file for file in videos if not is_whole_video(file)]
    broken += [file for file in arrays if not is_whole_archive(file, ARRAYS)]
    if broken:
        raise ValueError(f"{broken[0]} is cut short. Remove it, and run the same `vega3d synthesize` command again.")
    own = card.read_card(folder)
    if own is None or not own.data.get("license"):
        raise ValueError(f"{folder / card.NAME} names no licence. Run the same `vega3d synthesize` command again.")
    places = ("*.parquet", "annotations/*.parquet", "scenes/*.json", "preview.png", "LICENSE*")
    found = [settings, counts, *videos, *arrays, *(file for place in places for file in sorted(folder.glob(place)))]
    files: dict[str, Path | bytes] = {file.relative_to(folder).as_posix(): file for file in found if file.is_file()}
    text = (folder / card.NAME).read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
    return Content(
        "dataset",
        files | {card.NAME: text.encode()},
        str(own.data.get("license")),
        left_out=left_out(folder, files),
    )


# --- The Space -------------------------------------------------------------------------------------------------------


def space_content(model: str) -> Content:
    """The page of `vega3d demo` for a model on the Hub, or the embedded one, with the package beside it.

    Raises ValueError for a folder: a Space cannot reach it.
    """
    if model not in EMBEDDED and (Path(model).exists() or model.count("/") != 1):
        raise ValueError(
            f"A Space loads its model from the Hub, but {model!r} is no Hub id. Push the folder first "
            "(`vega3d push FOLDER org/name`), and give org/name."
        )
    left = [place for place in NOT_IN_SPACE if model not in EMBEDDED or not place.endswith(model)]
    files: dict[str, Path | bytes] = {}
    for file in sorted(PACKAGE.rglob("*")):
        name = file.relative_to(PACKAGE).as_posix()
        if file.is_file() and "__pycache__" not in name and not name.startswith(tuple(left)):
            files[f"vega3d/{name}"] = file
    app = (SPACE / "app.py").read_text(encoding="utf-8")
    line = f'MODEL = "{EMBEDDED[0]}"'
    if app.count(line) != 1:
        raise ValueError(f"{SPACE / 'app.py'} has no line {line}. Install vega3d again.")
    files["app.py"] = app.replace(line, f'MODEL = "{model}"').encode()
    files["requirements.txt"] = SPACE / "requirements.txt"
    opening, metadata, text = (SPACE / card.NAME).read_text(encoding="utf-8").split("---\n", 2)
    values = yaml.safe_load(metadata)
    if model not in EMBEDDED:
        values["models"] = [model]
    files[card.NAME] = (
        f"{opening}---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n{text}".encode()
    )
    return Content(
        "space", files, values["license"], notes=["choose the hardware ZeroGPU in the settings of the Space"]
    )
