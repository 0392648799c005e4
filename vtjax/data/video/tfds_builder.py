"""TFDS builder of the same examples as `vtjax.prepare --kind=video`, in array_record, for `tfds build` and Beam.

    echo '{"list": "list.csv", "fps": 4, "size": 256}' > my_videos/vtjax.json
    python -m vtjax.data.video.tfds_builder --manual_dir=my_videos --data_dir=tfds
    tfds build vtjax/data/video/tfds_builder.py --manual_dir=my_videos --data_dir=tfds

Both do the same; the command `tfds` itself, unlike what it builds, needs the packages tensorflow, apache-beam and
mlcroissant (tried with 2.21, 2.77 and 1.1 of them). vtjax.json holds `list`
(relative to the folder; without it the folder itself is read), unit, label_from_folder, "beam": true to build through
Apache Beam, and any field of shards.Making. Read with
`TfdsVideos(tfds.builder_from_directory("tfds/video_folder/1.0.0").as_data_source("train"))`, which is what a
VideoStore is.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from vtjax.data.readers.json_stream import read_json
from vtjax.data.video.container import VideoError
from vtjax.data.video.items import read_items
from vtjax.data.video.shards import Making, made_video
from vtjax.data.video.source import ClipSource
from vtjax.data.video.store import StoredVideo
from vtjax.data.video.towers import load_tower
from vtjax.data.video_records import VideoRecord, record_from_json
from vtjax.errors import Problems, VtjaxError, nearest

SETTINGS = "vtjax.json"
_OWN = ("list", "unit", "label_from_folder", "beam")


class VideoFolder(tfds.core.GeneratorBasedBuilder):
    """A folder of videos, or a list of them, with its settings beside it; see the module's text."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A folder of videos that holds {SETTINGS}; see vtjax/data/video/tfds_builder.py."

    # Nothing is downloaded; TFDS would look for check sums with a package that it does not require.
    url_infos = None

    def __init__(self, *, file_format: Any = None, **kwargs: Any):
        # TFDS writes TFRecord by default, which has no random access.
        super().__init__(file_format=file_format or "array_record", **kwargs)
        self.problems = Problems()

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "label": tfds.features.Scalar(np.int64),
            "class_name": tfds.features.Text(),
            "times": tfds.features.Tensor(shape=(None,), dtype=np.float64),
            "entry": tfds.features.Text(),
            "chunks": tfds.features.Sequence(tfds.features.Text()),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Videos prepared by vtjax: chunks of frames or features with their annotations.",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = pathlib.Path(dl_manager.manual_dir)
        settings, making = _settings(folder / SETTINGS)
        videos, _ = read_items(
            folder / settings["list"] if "list" in settings else folder,
            self.problems,
            unit=settings.get("unit", "video"),
            label_from_folder=settings.get("label_from_folder", False),
        )
        for problem in self.problems.items:
            logging.error("left out %s: %s", problem.where, problem.reason)
        splits: dict[str, list[VideoRecord]] = {}
        for video in videos:
            splits.setdefault(video.split or "train", []).append(video)
        beam = bool(settings.get("beam", False))
        return {name: self._generate_examples(tuple(records), making, beam) for name, records in splits.items()}

    def _generate_examples(self, videos: Sequence[VideoRecord], making: Making, beam: bool) -> Any:
        if beam:
            from tensorflow_datasets.core.utils.lazy_imports_utils import apache_beam

            return apache_beam.Create(videos) | apache_beam.FlatMap(_Examples(making))
        return itertools.chain.from_iterable(map(_Examples(making, self.problems), videos))


@dataclasses.dataclass
class _Examples:
    """Record -> one example, or none: then it is logged, and counted where `problems` is given (Beam's workers lie on
    other machines)."""

    making: Making
    problems: Problems | None = None

    def __call__(self, video: VideoRecord) -> Iterator[tuple[str, dict[str, Any]]]:
        tower = load_tower(self.making.features, self.making.weights) if self.making.features else None
        try:
            with made_video(video, self.making, tower) as (entry, chunks):
                example = _example(video, entry, list(chunks))
        except VideoError as error:
            logging.error("left out %s", error)
            if self.problems is not None:
                self.problems.add(error.where, error.reason)
            return
        if entry["damage"]:
            logging.warning("kept, but damaged: %s: %s", video.path, entry["damage"])
        if entry["outside"]:
            logging.warning("annotations after its end were left out: %s: %s", video.path, entry["outside"])
        yield video.id, example


def _example(video: VideoRecord, entry: dict[str, Any], chunks: list[bytes]) -> dict[str, Any]:
    return {
        "id": video.id,
        "label": video.label,
        "class_name": video.class_name,
        "times": StoredVideo(video.id, entry, lambda rows: [chunks[row] for row in rows]).times,
        "entry": json.dumps(entry, sort_keys=True, ensure_ascii=False),
        "chunks": chunks,
    }


def _settings(path: pathlib.Path) -> tuple[dict[str, Any], Making]:
    settings = read_json(path, "file; an object of settings is expected, {} for the defaults")
    if not isinstance(settings, dict):
        raise VtjaxError(f"{path}: an object of settings is expected")
    fields = {field.name: field for field in dataclasses.fields(Making)}
    for name in settings:
        if name not in _OWN and name not in fields:
            raise VtjaxError(f"{path}: unknown setting {name!r}: {nearest(name, [*_OWN, *fields])}")
    return settings, Making(**{name: value for name, value in settings.items() if name in fields})


class TfdsVideos(ClipSource):
    """A split of a built data set as a source. data: of `builder.as_data_source(split)`. An access reads the whole
    example; long videos are read faster from a VideoStore."""

    def __init__(self, data: Sequence[Any], *, log: str | None = None):
        super().__init__(log)
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def record(self, index: int) -> VideoRecord:
        return record_from_json(json.loads(self._data[index]["entry"])["record"])

    def open(self, index: int) -> StoredVideo:
        """The stored video."""
        example = self._data[index]
        chunks = list(example["chunks"])
        return StoredVideo(example["id"].decode(), json.loads(example["entry"]), lambda rows: [chunks[r] for r in rows])


def main(argv: Sequence[str]) -> int:
    """Builds the data set and prints what was left out."""
    from absl import flags

    if len(argv) > 1:
        raise VtjaxError(f"unexpected argument {argv[1]!r}: every option is a flag, --name=value; see --help")
    folder = pathlib.Path(flags.FLAGS.manual_dir)
    _settings(folder / SETTINGS)
    beam = None
    if flags.FLAGS.beam_pipeline_options:
        from apache_beam.options.pipeline_options import PipelineOptions

        beam = PipelineOptions.from_dictionary(dict(o.partition("=")[::2] for o in flags.FLAGS.beam_pipeline_options))
    builder = VideoFolder(data_dir=flags.FLAGS.data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder, beam_options=beam))
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    print(f"{builder.data_path}: {counts} examples")
    if len(builder.problems):
        print(builder.problems.report())
    return 0


if __name__ == "__main__":
    from absl import flags

    from vtjax import command_line

    flags.DEFINE_string("manual_dir", None, f"Folder of the videos, with {SETTINGS}.", required=True)
    flags.DEFINE_string("data_dir", None, "Folder in which the data set is written.", required=True)
    flags.DEFINE_list("beam_pipeline_options", [], "name=value of the Beam runner, where the settings say beam.")
    command_line.run(main)
