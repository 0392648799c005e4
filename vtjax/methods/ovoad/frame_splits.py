"""The unseen classes of THUMOS14's base-to-novel splits (Efficient-Prompt, as OV-OAD's table 3).

Ten random splits of each kind; "75/25" trains on 15 classes and tests on the 5 listed, "50/50" on 10 and 10.
"""

from __future__ import annotations

THUMOS14 = {
    "75/25": tuple(
        tuple(line.split())
        for line in """
BaseballPitch HammerThrow PoleVault SoccerPenalty ThrowDiscus
CricketBowling GolfSwing HighJump TennisSwing VolleyballSpiking
CricketShot Diving FrisbeeCatch TennisSwing VolleyballSpiking
CleanAndJerk CricketBowling CricketShot FrisbeeCatch Shotput
CricketBowling HammerThrow PoleVault TennisSwing VolleyballSpiking
CliffDiving CricketBowling CricketShot GolfSwing PoleVault
CliffDiving CricketShot JavelinThrow SoccerPenalty TennisSwing
Diving HighJump Shotput TennisSwing ThrowDiscus
GolfSwing PoleVault SoccerPenalty TennisSwing VolleyballSpiking
Billiards CleanAndJerk GolfSwing JavelinThrow VolleyballSpiking
""".strip().splitlines()
    ),
    "50/50": tuple(
        tuple(line.split())
        for line in """
BaseballPitch Billiards CleanAndJerk GolfSwing HammerThrow HighJump PoleVault SoccerPenalty TennisSwing ThrowDiscus
BaseballPitch BasketballDunk CricketBowling CricketShot GolfSwing HighJump Shotput SoccerPenalty TennisSwing \
VolleyballSpiking
BaseballPitch CleanAndJerk CricketShot Diving FrisbeeCatch GolfSwing LongJump Shotput TennisSwing VolleyballSpiking
BaseballPitch BasketballDunk Billiards CleanAndJerk CricketBowling CricketShot FrisbeeCatch JavelinThrow Shotput \
SoccerPenalty
CliffDiving CricketBowling FrisbeeCatch HammerThrow HighJump PoleVault SoccerPenalty TennisSwing ThrowDiscus \
VolleyballSpiking
BasketballDunk Billiards CliffDiving CricketBowling CricketShot GolfSwing PoleVault Shotput TennisSwing ThrowDiscus
CleanAndJerk CliffDiving CricketBowling CricketShot HighJump JavelinThrow LongJump PoleVault SoccerPenalty TennisSwing
BaseballPitch CleanAndJerk CricketShot Diving HighJump PoleVault Shotput TennisSwing ThrowDiscus VolleyballSpiking
CricketBowling FrisbeeCatch GolfSwing HammerThrow LongJump PoleVault Shotput SoccerPenalty TennisSwing \
VolleyballSpiking
BasketballDunk Billiards CleanAndJerk CricketShot Diving GolfSwing JavelinThrow SoccerPenalty ThrowDiscus \
VolleyballSpiking
""".strip().splitlines()
    ),
}
