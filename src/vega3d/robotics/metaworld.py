"""Meta-World: tasks of a simulated Sawyer arm, with the conventions of lerobot's environment of the same name.

A policy that acts here acts in `lerobot-eval --env.type=metaworld` as well: state, actions, the camera of the third
person and the initial states of seeds are the same. The view of the wrist is ours, and so is the first image of an
episode, which shows the scene as it is.
"""

import os
import sys
import warnings
from types import ModuleType

import numpy as np

from vega3d.extras import optional_module
from vega3d.robotics.closed_loop import LARGEST, SMALLEST, Observation

FIRST_SEED = 1000  # of evaluations, as of lerobot-eval; demonstrations have those below
FPS = 80  # steps a second of simulated time
STATE_NAMES = ("x", "y", "z", "gripper")  # of the hand [m], and its opening from 0 to 1
ACTION_NAMES = ("x", "y", "z", "gripper")  # steps of 1 cm, and the gripper: -1 opens, 1 closes
MOST_STEPS = 500  # of an episode
VIEWS = {"front": "corner2", "wrist": "gripperPOV"}  # the third person's first; cameras of the simulator
UPSIDE_DOWN = ("corner2",)  # cameras whose images are turned by 180 degrees
FRONT_POSITION = (0.75, 0.075, 0.7)  # of corner2 [m], nearer than the simulator's own
SHADOWS, SAMPLES = 1024, 0  # side of the shadow map [px], samples a pixel: a third of the time of the simulator's own
RENDERERS = ("egl", "osmesa", "glfw")
HELD = 4  # steps for which noise stays the same: it moves the hand by centimetres, not millimetres
INSTRUCTIONS = {  # Meta-World's own descriptions, which lerobot's environment gives to a policy as well
    "assembly-v3": "Pick up a nut and place it onto a peg",
    "basketball-v3": "Dunk the basketball into the basket",
    "bin-picking-v3": "Grasp the puck from one bin and place it into another bin",
    "box-close-v3": "Grasp the cover and close the box with it",
    "button-press-topdown-v3": "Press a button from the top",
    "button-press-topdown-wall-v3": "Bypass a wall and press a button from the top",
    "button-press-v3": "Press a button",
    "button-press-wall-v3": "Bypass a wall and press a button",
    "coffee-button-v3": "Push a button on the coffee machine",
    "coffee-pull-v3": "Pull a mug from a coffee machine",
    "coffee-push-v3": "Push a mug under a coffee machine",
    "dial-turn-v3": "Rotate a dial 180 degrees",
    "disassemble-v3": "Pick a nut out of a peg",
    "door-close-v3": "Close a door with a revolving joint",
    "door-lock-v3": "Lock the door by rotating the lock clockwise",
    "door-open-v3": "Open a door with a revolving joint",
    "door-unlock-v3": "Unlock the door by rotating the lock counter-clockwise",
    "drawer-close-v3": "Push and close a drawer",
    "drawer-open-v3": "Open a drawer",
    "faucet-close-v3": "Rotate the faucet clockwise",
    "faucet-open-v3": "Rotate the faucet counter-clockwise",
    "hammer-v3": "Hammer a screw on the wall",
    "hand-insert-v3": "Insert the gripper into a hole",
    "handle-press-side-v3": "Press a handle down sideways",
    "handle-press-v3": "Press a handle down",
    "handle-pull-side-v3": "Pull a handle up sideways",
    "handle-pull-v3": "Pull a handle up",
    "lever-pull-v3": "Pull a lever down 90 degrees",
    "peg-insert-side-v3": "Insert a peg sideways",
    "peg-unplug-side-v3": "Unplug a peg sideways",
    "pick-out-of-hole-v3": "Pick up a puck from a hole",
    "pick-place-v3": "Pick and place a puck to a goal",
    "pick-place-wall-v3": "Pick a puck, bypass a wall and place the puck",
    "plate-slide-back-side-v3": "Get a plate from the cabinet sideways",
    "plate-slide-back-v3": "Get a plate from the cabinet",
    "plate-slide-side-v3": "Slide a plate into a cabinet sideways",
    "plate-slide-v3": "Slide a plate into a cabinet",
    "push-back-v3": "Push the puck to a goal",
    "push-v3": "Push the puck to a goal",
    "push-wall-v3": "Bypass a wall and push a puck to a goal",
    "reach-v3": "Reach a goal position",
    "reach-wall-v3": "Bypass a wall and reach a goal",
    "shelf-place-v3": "Pick and place a puck onto a shelf",
    "soccer-v3": "Kick a soccer into the goal",
    "stick-pull-v3": "Grasp a stick and pull a box with the stick",
    "stick-push-v3": "Grasp a stick and push a box using the stick",
    "sweep-into-v3": "Sweep a puck into a hole",
    "sweep-v3": "Sweep a puck off the table",
    "window-close-v3": "Push and close a window",
    "window-open-v3": "Push and open a window",
}


class MetaWorldEnvironment:
    """One task of Meta-World.

    The initial state of a seed depends on the task and the seed alone, and on no episode before.

    Args:
        task: such as `push-v3`.
        size: height and width of the images [px].
        views: of `VIEWS`, in this order; without any, nothing is rendered.
        renderer: of `RENDERERS`: EGL needs no display, OSMesa no graphics card either, GLFW a display.
        noise: standard deviation of what is added to x, y and z of each action before it is carried out, the same for
            `HELD` steps and of the episode's seed. An expert then shows how to come back.
        every: n, steps from one rendered image to the next; between them the last one is repeated.

    Raises:
        ValueError: for a task, size, view or renderer that is not known, or another renderer than before; for noise
            or steps that cannot be.
        MissingExtraError: without metaworld.
    """

    most_steps = MOST_STEPS
    rest_action = np.array([0, 0, 0, -1], np.float32)

    def __init__(
        self,
        task: str,
        size: int = 128,
        views: tuple[str, ...] = tuple(VIEWS),
        renderer: str = "egl",
        noise: float = 0.0,
        every: int = 1,
    ):
        check_task(task)
        if not 0 <= noise <= 1 or every < 1:
            raise ValueError(f"Got noise {noise} and an image every {every} steps; noise is 0 to 1, steps at least 1.")
        unknown = sorted(set(views) - VIEWS.keys())
        if unknown or size < 2 or size % 2:
            raise ValueError(f"Got the views {list(views)} of {size} px; views are {list(VIEWS)}, sizes even numbers.")
        self._mujoco = simulator(renderer, is_shown=bool(views))
        self.task, self.instruction, self.size, self.views = task, INSTRUCTIONS[task], size, views
        self._simulation = simulation_of(task)
        self._expert = optional_module("metaworld.policies").ENV_POLICY_MAP[task]()
        self._numbers = np.zeros(0)  # float64[39], all that the simulator tells of the scene
        self._renderer = self._mujoco.Renderer(self._simulation.model, size, size) if views else None
        self._noise, self._every = noise, every
        self._random, self._push, self._steps = np.random.default_rng(), np.zeros(3), 0
        self._images: dict[str, np.ndarray] = {}

    def __enter__(self) -> "MetaWorldEnvironment":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()

    def reset(self, seed: int) -> Observation:
        """The first observation, which shows the objects and the goal where they are from now on.

        The package computes it before it has moved some of them, by up to 20 cm: drawers, windows, goals.
        """
        self._simulation.seed(seed)
        self._simulation.reset(seed=seed)
        self._mujoco.mj_kinematics(self._simulation.model, self._simulation.data)
        self._mujoco.mj_camlight(self._simulation.model, self._simulation.data)
        self._numbers = self._simulation._get_obs()
        self._random, self._steps = np.random.default_rng(seed), 0
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[Observation, bool]:
        self._numbers, _, _, _, info = self._simulation.step(self._pushed(np.asarray(action, np.float32)))
        self._steps += 1
        return self._observation(), bool(info["success"])

    def expert_action(self) -> np.ndarray:
        """float32[4] of the task's scripted expert, which knows where everything is, in [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of actions above 1, which are cut here
            action = self._expert.get_action(self._numbers)
        return np.asarray(action, np.float32).clip(SMALLEST, LARGEST)

    def _observation(self) -> Observation:
        state = self._numbers[: len(STATE_NAMES)].astype(np.float32)
        if self._steps % self._every == 0:
            self._images = {view: self._image(VIEWS[view]) for view in self.views}
        return Observation(self._images, state)

    def _pushed(self, action: np.ndarray) -> np.ndarray:
        """The action that is carried out: the given one, or with noise and within the limits."""
        if not self._noise:
            return action
        if self._steps % HELD == 0:
            self._push = self._random.normal(scale=self._noise, size=3)
        return np.append(action[:3] + self._push, action[3]).clip(SMALLEST, LARGEST).astype(np.float32)

    def _image(self, camera: str) -> np.ndarray:
        """uint8[H, W, 3], upright."""
        assert self._renderer is not None
        self._renderer.update_scene(self._simulation.data, camera)
        image = self._renderer.render()
        return np.ascontiguousarray(image[::-1, ::-1]) if camera in UPSIDE_DOWN else image


def check_task(task: str) -> None:
    """Raises ValueError for a task without an instruction."""
    if task not in INSTRUCTIONS:
        raise ValueError(f"{task!r:.80} is no task of Meta-World. Give one of {', '.join(INSTRUCTIONS)}.")


def simulator(renderer: str, is_shown: bool = True) -> ModuleType:
    """The module mujoco, which renders as it was told when it was first imported.

    Raises:
        ValueError: if the renderer is not known, or images are shown and mujoco was imported for another one.
    """
    if renderer not in RENDERERS:
        raise ValueError(f"The renderer is {renderer!r:.80}, but must be one of {', '.join(RENDERERS)}.")
    if "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = renderer
    elif is_shown and os.environ.get("MUJOCO_GL") != renderer:
        raise ValueError(
            f"mujoco was imported with the renderer {os.environ.get('MUJOCO_GL')}, and cannot change to {renderer}. "
            "Begin a new process, or set MUJOCO_GL before the import."
        )
    return optional_module("mujoco")


def simulation_of(task: str):
    """The simulator of a task: the goal is visible, and each seed has its own positions of objects and goal."""
    kinds = optional_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    simulation = kinds[f"{task}-goal-observable"](seed=0)
    simulation._freeze_rand_vec, simulation.seeded_rand_vec = False, True  # else all seeds have one state
    simulation.model.camera("corner2").pos[:] = FRONT_POSITION
    quality = simulation.model.vis.quality
    quality.shadowsize, quality.offsamples = SHADOWS, SAMPLES
    return simulation
