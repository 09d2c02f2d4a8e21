from kdrun.tracking.files import *  # noqa: F403
