"""LIBERO and LIBERO-Plus: tasks of a simulated Panda arm, with the conventions of the data that policies learn from.

A raw frame is upside down and mirrored, the gripper's sign differs between data sets, and LIBERO-Plus writes the names
of its variations into instructions. All of it is set right here. LIBERO and its meshes are not in an extra: its own
page says how to install it, and LIBERO-Plus is installed in its place.
"""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from vega3d.robotics.closed_loop import Observation

FPS = 20  # steps a second
SIZE = 256  # of the images [px]
STATE_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "finger_left", "finger_right")
ACTION_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper")  # 1 is 5 cm, or 0.5 rad
VIEWS = {"front": "agentview_image", "wrist": "robot0_eye_in_hand_image"}  # the third person's first
POSITION, QUATERNION, FINGERS = "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"
MOST_STEPS = {  # of each suite, as OpenVLA-OFT and its successors evaluate
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
SETTLING = 10  # steps of rest before an episode, in which objects fall into place
Gripper = Literal["signed", "share"]  # -1 opens and 1 closes, as LIBERO has it; or 0 is closed and 1 open, as OpenVLA
VARIATION = re.compile(r"(_(view|light|noise|table|tb|add|initstate)_[-\d]\S*|_(moved_)?level\d\S*)$")
OF_STATES = re.compile(r"_(language|view|light)_[^.]*|_(table|tb)_\d+")
SCENE = re.compile(r"^[A-Z_]+_SCENE\d+_")  # before the words in the names of LIBERO-90 and LIBERO-10
INSTALL = "Install LIBERO or LIBERO-Plus with its assets, as its page says: it is on no package registry."


class Simulator(Protocol):
    """What is used of LIBERO's `OffScreenRenderEnv`."""

    def seed(self, seed: int) -> Any: ...
    def reset(self) -> Mapping[str, np.ndarray]: ...
    def set_init_state(self, state: np.ndarray) -> Mapping[str, np.ndarray]: ...
    def step(self, action: list[float]) -> tuple[Mapping[str, np.ndarray], float, bool, dict]: ...
    def check_success(self) -> bool: ...
    def close(self) -> None: ...


class LiberoEnvironment:
    """One task of LIBERO; `seed` n is its n-th initial state.

    Args:
        simulator: LIBERO's own, with the task's scene.
        states: float[n, S], initial states of the simulator.
        task: its name, and `instruction` what a policy is told.
        most_steps: of an episode, after it has settled.
        gripper: what the last number of the policy's actions means.
    """

    def __init__(
        self,
        simulator: Simulator,
        states: np.ndarray,
        task: str,
        instruction: str,
        most_steps: int,
        gripper: Gripper = "signed",
    ):
        if gripper not in get_args(Gripper):
            raise ValueError(f"The gripper is {gripper!r:.80}, but must be one of {', '.join(get_args(Gripper))}.")
        self._simulator, self._states, self._gripper = simulator, states, gripper
        self.task, self.instruction, self.most_steps = task, instruction, most_steps
        self.rest_action = np.array([0, 0, 0, 0, 0, 0, {"signed": -1, "share": 1}[gripper]], np.float32)

    def reset(self, seed: int) -> Observation:
        """The observation after an initial state has settled; raises ValueError if there is none of this number."""
        if not 0 <= seed < len(self._states):
            raise ValueError(f"{self.task} has the initial states 0 to {len(self._states) - 1}, but {seed} is asked.")
        self._simulator.seed(0)  # objects that no initial state holds are placed by it
        self._simulator.reset()
        self._simulator.set_init_state(self._states[seed])
        for _ in range(SETTLING):
            observation, _ = self.step(self.rest_action)
        return observation

    def step(self, action: np.ndarray) -> tuple[Observation, bool]:
        raw, _, done, _ = self._simulator.step(simulator_action(action, self._gripper).tolist())
        return observation_of(raw), bool(done or self._simulator.check_success())

    def close(self) -> None:
        self._simulator.close()


def observation_of(raw: Mapping[str, np.ndarray]) -> Observation:
    """What a policy gets of LIBERO's raw observation: frames turned by 180 degrees, and a state of eight numbers."""
    missing = [key for key in (*VIEWS.values(), POSITION, QUATERNION, FINGERS) if key not in raw]
    if missing:
        raise ValueError(f"The observation lacks {', '.join(missing)}. Render both cameras of LIBERO.")
    images = {view: np.ascontiguousarray(raw[key][::-1, ::-1]) for view, key in VIEWS.items()}
    state = np.concatenate([raw[POSITION], rotation_vector(raw[QUATERNION]), raw[FINGERS]])
    return Observation(images, state.astype(np.float32))


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """float64[3], axis times angle [rad] of a quaternion (x, y, z, w).

    The angle is from 0 to 2 pi, as in the data sets: a quaternion and its negative, which are one rotation, differ.
    """
    *axis, w = np.asarray(quaternion, np.float64)
    w = float(np.clip(w, -1, 1))  # rounding
    length = np.sqrt(1 - w * w)
    return np.zeros(3) if length < 1e-8 else np.array(axis) * (2 * np.arccos(w) / length)


def simulator_action(action: np.ndarray, gripper: Gripper) -> np.ndarray:
    """float64[7] as LIBERO takes it, of a policy's action; a share of opening is closed up to 1/2, and open above."""
    action = np.array(action, np.float64)
    if action.shape != (len(ACTION_NAMES),):
        raise ValueError(f"An action is float{list(action.shape)}, but must have {len(ACTION_NAMES)} numbers.")
    if gripper == "share":
        action[-1] = -1 if action[-1] > 0.5 else 1
    return action


def plain_instruction(name: str, language: str) -> str:
    """The instruction of a task by its name and what its suite says.

    LIBERO-Plus makes instructions of file names, and so `view 0 0 100 2 352 initstate 0` and the like stand in them,
    which is not what is varied. Where the wording itself is varied, it is in its suite's words.
    """
    if "_language_" in name:
        return language
    plain = name
    while (shorter := VARIATION.sub("", plain)) != plain:
        plain = shorter
    return language if plain == name else SCENE.sub("", plain).replace("_", " ")


def states_place(folder: str, file: str) -> Path:
    """Where the initial states of a task lie below LIBERO's folder of them; those of variations are of the plain task.

    Tasks of LIBERO-Plus with more or displaced objects have one state each, in a folder of its own.
    """
    if has_other_objects(file):
        return Path("libero_newobj") / folder / file
    path = Path(file)
    return Path(folder) / f"{OF_STATES.sub('', path.stem)}{path.suffix}"


def has_other_objects(file: str) -> bool:
    return "_add_" in file or "_level" in file


def read_states(path: Path) -> np.ndarray:
    """float[n, S] of a file of LIBERO, an array as torch writes it; nothing else in it is run."""
    import torch

    rebuild = np.empty(0).__reduce__()[0]
    known: list[Any] = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]  # 1 and 2
    known += [np.ndarray, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    with torch.serialization.safe_globals(known):
        states = np.asarray(torch.load(path, weights_only=True))
    return states[None] if states.ndim == 1 else states


def libero_environment(task: str, gripper: Gripper = "signed", size: int = SIZE) -> LiberoEnvironment:
    """The environment of a task, such as `libero_spatial/3`, the fourth of its suite.

    Raises:
        ValueError: for a suite or a number that is not there; if LIBERO is not installed.
    """
    suite, number = suite_and_number(task)
    check_libero()
    benchmark, environments, paths = (
        importlib.import_module(name) for name in ("libero.libero.benchmark", "libero.libero.envs", "libero.libero")
    )
    tasks = benchmark.get_benchmark_dict()[suite]()
    if number >= tasks.n_tasks:
        raise ValueError(f"{suite} has the tasks 0 to {tasks.n_tasks - 1}, but {number} is asked.")
    known = tasks.get_task(number)
    scene = Path(paths.get_libero_path("bddl_files")) / known.problem_folder / known.bddl_file
    states = Path(paths.get_libero_path("init_states")) / states_place(known.problem_folder, known.init_states_file)
    simulator = environments.OffScreenRenderEnv(bddl_file_name=str(scene), camera_heights=size, camera_widths=size)
    instruction = plain_instruction(known.name, known.language)
    return LiberoEnvironment(simulator, read_states(states), task, instruction, MOST_STEPS[suite], gripper)


def check_libero() -> None:
    """Raises ValueError if LIBERO is not installed; it is not imported, for it asks where its data sets are."""
    if importlib.util.find_spec("libero") is None:
        raise ValueError(f"The package libero is not installed. {INSTALL}")


def suite_and_number(task: str) -> tuple[str, int]:
    suite, _, number = task.partition("/")
    if suite not in MOST_STEPS or not number.isdecimal():
        raise ValueError(f"{task!r:.80} is no task: give SUITE/NUMBER with a suite of {', '.join(MOST_STEPS)}.")
    return suite, int(number)
