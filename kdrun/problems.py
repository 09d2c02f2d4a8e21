from kdrun.config.problems import *  # noqa: F403
