from kdrun.config.targets import *  # noqa: F403
