"""The run folder of an ensemble study: parts of many runs, their scalars, summary and report."""

from fractalkern.experiments.study.folder import Part, Study, write_json
from fractalkern.experiments.study.scalars import Series
from fractalkern.experiments.study.trackers import TRACKERS, Tracker, tracker

__all__ = ["TRACKERS", "Part", "Series", "Study", "Tracker", "tracker", "write_json"]
