"""Where the registry finds the settings; they are shared with methods whose recipe begins with a CLIP."""

from vtjax.config import Stages
from vtjax.encoders.clip_config import ClipConfig

CONFIG = ClipConfig
STAGES = Stages
