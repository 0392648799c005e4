"""Small videos that PyAV writes, and ways to damage them."""

import dataclasses
import struct

import av
import jax
import numpy as np

from vtjax.data.video.sampling import Sampler
from vtjax.data.video.source import read_clip
from vtjax.encoders.image import ImageTransform


def index_timestamps(index):
    """Times of an index's frames as the stream has them: PyAV's `frame.time` of a sequential decode, sorted."""
    return np.sort(index.pts) * index.time_base[0] / index.time_base[1]


def fixed_rate_indices(count, fps, rate):
    """OV-OAD's frames of a video of constant rate: round((i + 0.5) / rate * fps) below count, half to even."""
    picks = np.rint((np.arange(int(np.ceil(count * rate / fps)) + 1) + 0.5) / rate * fps).astype(np.int64)
    return picks[picks < count]


@dataclasses.dataclass(frozen=True)
class ClipTransform:
    """A transform of the pipeline: sample, decode, bring to size, mirror every second clip."""

    sampler: Sampler
    size: int
    flip: bool = False

    def __call__(self, handle, rng):
        clip = read_clip(handle, self.sampler, rng)
        frames = ImageTransform(self.size).pixels(clip.frames)
        if self.flip and rng.random() < 0.5:
            frames = np.ascontiguousarray(frames[..., ::-1, :])
        label, substitute = np.array(clip.record.label, np.int32), np.array(clip.substitute)
        return {"frames": frames, "mask": clip.mask, "label": label, "substitute": substitute}

    def spec(self):
        shapes = {"frames": (self.sampler.frames, self.size, self.size, 3), "mask": (self.sampler.frames,)}
        kinds = {"frames": np.uint8, "mask": np.bool_, "label": np.int32, "substitute": np.bool_}
        return {name: jax.ShapeDtypeStruct(shapes.get(name, ()), kind) for name, kind in kinds.items()}


def picture(index, height=48, width=64):
    """A frame that tells its index: a bright bar moves over a slow gradient."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 120, width).astype(np.uint8)
    frame[..., 1] = np.linspace(0, 120, height).astype(np.uint8)[:, None]
    frame[..., 2] = (7 * index) % 200
    x = (5 * index) % (width - 8)
    frame[8:24, x : x + 8] = 255
    return frame


def write(path, frames=30, fps=10, *, codec="libx264", gop=12, size=(48, 64), pts=None, rotation=0, sound=False,
                options=None, pix_fmt="yuv420p", brightness=0):  # fmt: skip
    """Writes `frames` pictures; pts: time stamps in milliseconds, for a rate that varies."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000 if pts is not None else fps)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        stream.options = {"threads": "1", **(options or {})}
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index in range(frames):
            pixels = np.minimum(picture(index, *size).astype(int) + brightness, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if pts is not None:
                frame.pts = int(pts[index])
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            write_sound(container, audio, frames / fps)
    return path


def write_sound(container, stream, seconds):
    for start in range(0, int(16000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def audio_only(path, seconds=1):
    with av.open(str(path), "w") as container:
        write_sound(container, container.add_stream("aac", rate=16000, layout="mono"), seconds)
    return path


def sequential(path):
    """(timestamps, frames) of a straight sequential decode of the first video stream."""
    times, frames = [], []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for frame in container.decode(stream):
            times.append(frame.time)
            frames.append(frame.to_ndarray(format="rgb24"))
    return np.array(times), frames


def truncate(data, share):
    return data[: int(len(data) * share)]


def flip(data, count, rng):
    out = bytearray(data)
    for place in rng.integers(0, len(out), count):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def claim_size(data, side=65000):
    """The avc1 box of an mp4 says that frames are side x side."""
    place = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    return data[:place] + struct.pack(">HH", side, side) + data[place + 4 :]


def claim_jpeg_size(data, side=65500):
    """Every picture of a motion-JPEG file says that it is side x side."""
    out, place = bytearray(data), data.find(b"\xff\xc0\x00\x11")
    while place >= 0:
        out[place + 5 : place + 9] = struct.pack(">HH", side, side)
        place = data.find(b"\xff\xc0\x00\x11", place + 4)
    return bytes(out)


def claim_samples(data, count=0x3FFFFFFF):
    """The sample table of an mp4 says that it has a thousand million frames of the same size."""
    place = data.index(b"stsz") + 8
    return data[:place] + struct.pack(">II", 4, count) + data[place + 8 :]


def spoil(root, good, count, rng):
    """Writes `count` damaged files of eight kinds made of the good ones (path by suffix); returns their names."""
    jpeg = write(root / "jpeg.avi", 8, codec="mjpeg", pix_fmt="yuvj420p")
    pictures = jpeg.read_bytes()
    jpeg.unlink()
    sources = [(path.read_bytes(), suffix) for suffix, path in sorted(good.items())]
    mp4 = good[".mp4"].read_bytes()
    play_lists = [b"#EXTM3U\n#EXTINF:5,\ngood.mp4\n", b"ffconcat version 1.0\nfile good.mp4\n"]
    texts = [b"hello world\n" * 50, *play_lists, bytes(5000)]
    names = []
    for index in range(count):
        data, suffix = sources[rng.integers(len(sources))]
        kind = index % 7
        if kind in (0, 1):
            data = truncate(data, rng.uniform(0.0, 0.85))
        elif kind in (2, 3):
            data = flip(data, 40, rng)
        elif kind == 4:
            data, suffix = texts[(index // 7) % len(texts)], ".mp4"
        elif kind == 5:
            data, suffix = claim_jpeg_size(pictures), ".avi"
        else:
            data, suffix = claim_samples(mp4), ".mp4"
        names.append(f"bad{index:03d}_{kind}{suffix}")
        (root / names[-1]).write_bytes(data)
    return names
