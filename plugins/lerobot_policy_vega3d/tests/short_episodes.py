"""`lerobot-eval` with episodes of 5 steps of Meta-World: LeRobot has no option for their length."""

from lerobot.envs import metaworld
from lerobot.scripts import lerobot_eval


class ShortEpisodes(metaworld.MetaworldEnv):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._max_episode_steps = 5


metaworld.MetaworldEnv = ShortEpisodes
lerobot_eval.main()
