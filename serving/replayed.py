"""One lap of a replay as the prediction it was, read back from the record: nothing is computed again, and no model is asked."""

import orjson

from feature_repo.settings import Settings
from serving.errors import NoReplayError
from serving.prediction import DriverPrediction, ModelInUse, Prediction
from serving.replay_file import ReplayReader, replay_path


def replayed(settings: Settings, race_id: str, run: str, lap: int) -> Prediction:
    """What a replay predicted when the leader had completed a lap.

    Args:
        settings: which home.
        race_id: the race.
        run: names the replay, as its events do.
        lap: of the leader; 0 = lights out.
    Raises:
        InvalidIdError: not the form of a race id.
        NoReplayError: the newest replay of the race is another one, or it has not shown the lap.
    """
    reader = ReplayReader(replay_path(settings, race_id))
    events = reader.news()
    if reader.last is None or reader.last.run != run:
        newest = "none" if reader.last is None else reader.last.run
        raise NoReplayError(f"{race_id}: replay: got {run}, expected the newest, {newest}; leave `replay` out, or follow anew")
    for event in events:
        if event.kind == "lap" and (said := orjson.loads(event.line))["lap"] == lap:
            model = {name: value for name, value in said["model"].items() if name != "saw_this_race"}
            return Prediction(
                race_id=said["race_id"],
                simulated=said["simulated"],
                moment=said["moment"],
                source=said["source"],
                model=ModelInUse(**model),
                saw_this_race=said["model"]["saw_this_race"],
                notes=said["notes"],
                missing=said["missing"],
                drivers=[DriverPrediction(**driver) for driver in said["drivers"]],
                stale=said["stale"],
                fallbacks=said["fallbacks"],
            )
    raise NoReplayError(f"{race_id}: replay {run} has not shown lap {lap}; /v1/races/{race_id}/replay has the laps it has")
