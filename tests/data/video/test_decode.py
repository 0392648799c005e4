"""VideoReader against a straight sequential decode by PyAV, on every container and oddity."""

import os
import pickle

import av
import numpy as np
import pytest

from vtjax.data.video.container import VideoError, open_video
from vtjax.data.video.decode import VideoReader
from vtjax.data.video.index import FrameIndex
from vtjax.errors import VtjaxError

KINDS = {
    "b_frames.mp4": dict(codec="libx264", options={"bf": "3", "x264-params": "b-pyramid=normal"}),
    "open_gop.mp4": dict(codec="libx264", options={"bf": "3", "x264-params": "open-gop=1:scenecut=0:keyint=8"}),
    "refresh.mkv": dict(codec="libx264", options={"x264-params": "intra-refresh=1"}, gop=10),
    "plain.mkv": dict(codec="libx264", options={"bf": "0"}),
    "hevc.mp4": dict(codec="libx265", options={"x265-params": "log-level=none:bframes=3"}),
    "packed.avi": dict(codec="mpeg4", options={"bf": "2"}),
    "plain.avi": dict(codec="mpeg4"),
    "vp8.webm": dict(codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "10"}),
    "vp9.webm": dict(codec="libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "10"}),
    "av1.mkv": dict(codec="libsvtav1", options={"preset": "12"}),
    "jpeg.avi": dict(codec="mjpeg", pix_fmt="yuvj420p"),
    "lossless.mkv": dict(codec="ffv1"),
    "stream.ts": dict(codec="libx264"),
    "raw.h264": dict(codec="libx264"),
}


def check_against_sequential(path, video, draws=4, seed=0):
    times, frames = video.sequential(path)
    with VideoReader(path) as reader:
        assert len(reader) == len(frames)
        stamps = times if np.all([t is not None for t in times]) else None
        if stamps is not None:
            assert np.array_equal(video.index_timestamps(reader.index), np.sort(times.astype(float)))
        rng = np.random.default_rng(seed)
        for _ in range(draws):
            picks = rng.integers(len(frames), size=6)
            got = reader.frames(picks)
            for index, frame in zip(picks, got, strict=True):
                assert np.array_equal(frame, frames[index]), index
        everything = reader.frames(range(len(frames)))
        assert all(np.array_equal(a, b) for a, b in zip(everything, frames, strict=True))
        assert reader.damage == "" and reader.intact == 1.0
        return reader.index


@pytest.mark.parametrize("name", KINDS)
def test_random_access_is_the_sequential_decode(name, video, tmp_path):
    if KINDS[name]["codec"] not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {KINDS[name]['codec']}")
    path = video.write(tmp_path / name, 40, **{"gop": 12} | KINDS[name])
    index = check_against_sequential(path, video)
    assert len(index) == 40 and np.all(np.diff(index.times) > 0)
    step = 0.04 if name == "raw.h264" else 0.1  # a bare stream has no clock, FFmpeg takes 25 frames per second
    assert index.duration == pytest.approx(index.times[-1] + step, abs=0.02)


def test_every_real_clip(video, shared_data):
    clips = sorted(p for p in (shared_data / "videos").rglob("*") if p.is_file())
    assert len(clips) >= 31
    for clip in clips:
        times, frames = video.sequential(clip)
        with VideoReader(clip) as reader:
            assert len(reader) == len(frames), clip
            assert np.array_equal(video.index_timestamps(reader.index), np.sort(times)), clip
            picks = np.random.default_rng(0).integers(len(frames), size=3)
            for index, frame in zip(picks, reader.frames(picks), strict=True):
                assert np.array_equal(frame, frames[index]), (clip, index)
            assert reader.damage == "", clip


def test_frames_by_time_with_varying_rate(video, tmp_path):
    pts = np.cumsum([0, *([40] * 10), 500, *([20] * 12), 1000])
    path = video.write(tmp_path / "varying.mkv", len(pts), pts=pts)
    _, frames = video.sequential(path)
    with VideoReader(path) as reader:
        assert np.allclose(reader.times, pts / 1000, atol=1e-9)
        wanted = [0.0, 0.039, 0.04, 0.6, 0.91, 5.0, 0.399, -1.0]
        expected = [max(int(np.sum(pts / 1000 <= t)) - 1, 0) for t in wanted]
        assert reader.index_at(wanted).tolist() == expected
        shown = reader.frames(reader.index_at(wanted))
        assert all(np.array_equal(a, frames[i]) for a, i in zip(shown, expected, strict=True))
        near = [int(np.argmin(np.abs(pts / 1000 - t))) for t in wanted]
        assert reader.index_near(wanted).tolist() == near


def test_rounded_time_stamps_still_name_their_frame(video, tmp_path):
    path = video.write(tmp_path / "thirty.mkv", 60, fps=30)  # Matroska keeps whole milliseconds
    with VideoReader(path) as reader:
        assert reader.index_at(np.arange(60) / 30).tolist() == list(range(60))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(degrees, video, tmp_path):
    path = video.write(tmp_path / f"turned{degrees}.mp4", 6, rotation=degrees)
    _, frames = video.sequential(path)
    with VideoReader(path) as reader:
        assert reader.rotation == degrees
        got = reader.frames([3])[0]
        assert reader.size == got.shape[:2] == ((64, 48) if degrees in (90, 270) else (48, 64))
    turned = frames[3]
    for _ in range(degrees // 90):  # counter-clockwise, by hand: the right column becomes the top row
        turned = np.stack([turned[:, x] for x in reversed(range(turned.shape[1]))])
    assert np.array_equal(got, turned)


def test_missing_duration_and_frame_count(video, tmp_path):
    path = video.write(tmp_path / "live.webm", 25, codec="libvpx-vp9", options={"live": "1"})
    data = path.read_bytes()
    place = data.index(b"\x44\x89")  # EBML's Duration becomes a void element
    (tmp_path / "none.webm").write_bytes(data[:place] + b"\xec\x89" + data[place + 2 :].replace(b"\x88", b"\x88", 1))
    with VideoReader(tmp_path / "none.webm") as reader:
        assert len(reader) == 25 and reader.end == pytest.approx(2.5)
    with VideoReader(video.write(tmp_path / "a.ts", 25)) as reader:
        assert len(reader) == 25 and reader.times[0] == pytest.approx(0, abs=1e-6)
        assert reader.end == pytest.approx(2.5, abs=0.01)


def test_metadata_that_is_not_utf8(good, tmp_path):
    data = good[".mkv"].read_bytes()
    place = data.index(b"Lavf")
    (tmp_path / "a.mkv").write_bytes(data[:place] + b"La\xd3\xff" + data[place + 4 :])
    with VideoReader(tmp_path / "a.mkv") as reader:
        assert len(reader) == 30


def test_a_name_with_a_colon(good, tmp_path):
    path = tmp_path / "http:x.mp4"
    path.write_bytes(good[".mp4"].read_bytes())
    with VideoReader(path) as reader:
        assert len(reader) == 30


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("absent.mp4", None, "no such file"),
        ("zero.mp4", b"", "empty file (0 bytes)"),
        ("text.mp4", b"hello\n" * 99, "not a media file, or its header is damaged"),
        ("list.mp4", b"ffconcat version 1.0\nfile good.mp4\n", "a play list or text, not a video"),
    ],
)
def test_files_that_are_no_video(name, data, reason, tmp_path):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(VideoError) as caught:
        VideoReader(tmp_path / name)
    assert caught.value.reason == reason and caught.value.where == str(tmp_path / name)
    assert isinstance(caught.value, VtjaxError) and str(tmp_path / name) in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_an_unfinished_download_is_told(share, good, video, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(video.truncate(good[".mp4"].read_bytes(), share))
    with pytest.raises(VideoError, match="cut off before its index, as by an unfinished download"):
        VideoReader(path)


def test_sound_pictures_and_folders(video, tmp_path):
    from PIL import Image

    Image.fromarray(video.picture(0)).save(tmp_path / "picture.png")
    os.rename(tmp_path / "picture.png", tmp_path / "picture.mp4")
    video.audio_only(tmp_path / "sound.mp4")
    for name, reason in (
        ("sound.mp4", "no video in it, only sound"), ("picture.mp4", "a picture, not a video"),
        ("", "a folder, not a video"),
    ):  # fmt: skip
        with pytest.raises(VideoError) as caught:
            VideoReader(tmp_path / name)
        assert caught.value.reason == reason


def test_frames_over_the_limit_are_refused(good):
    with pytest.raises(VideoError) as caught:
        open_video(good[".mp4"], max_pixels=48 * 64 - 1)
    assert caught.value.reason == "its frames are larger than the limit" and "64x48" in caught.value.detail
    open_video(good[".mp4"], max_pixels=48 * 64)[0].close()


def test_pictures_that_claim_to_be_huge_are_never_allocated(video, tmp_path):
    data = video.write(tmp_path / "jpeg.avi", 5, codec="mjpeg", pix_fmt="yuvj420p").read_bytes()
    (tmp_path / "huge.avi").write_bytes(video.claim_jpeg_size(data))
    with pytest.raises(VideoError) as caught, VideoReader(tmp_path / "huge.avi") as reader:
        reader.frames([0])
    assert caught.value.reason == "no frame of it can be decoded"


@pytest.mark.parametrize("suffix, share", [(".mkv", 0.6), (".avi", 0.85), (".webm", 0.6)])
def test_truncated_files_give_what_decodes(suffix, share, good, video, tmp_path):
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(video.truncate(good[suffix].read_bytes(), share))
    times, frames = video.sequential(path)
    assert 5 < len(frames) < 29
    with VideoReader(path) as reader:
        assert len(reader) == len(frames)
        assert f"{len(frames)} of 30 frames are there" in reader.damage
        assert reader.intact == pytest.approx(len(frames) / 30, abs=0.034)  # the last one may be cut in two
        assert all(np.array_equal(a, b) for a, b in zip(reader.frames(range(len(frames))), frames, strict=True))


def test_truncated_mp4_with_its_header_first(video, tmp_path):
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(video.picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(video.truncate(path.read_bytes(), 0.7))
    with VideoReader(path) as reader:
        assert 0 < len(reader) < 30 and reader.index.expected == 30
        assert "of 30 frames are there" in reader.damage
        reader.frames(range(len(reader)))


def test_spoilt_frames_are_counted_up_to_the_next_key(video, tmp_path):
    path = video.write(tmp_path / "a.mp4", 60, gop=10, options={"bf": "0", "crf": "10", "x264-params": "scenecut=0"})
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[23]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    for offset in range(size // 3, size, 5):
        data[place + offset] ^= 0x55
    (tmp_path / "b.mp4").write_bytes(data)
    with VideoReader(tmp_path / "b.mp4") as reader:
        reader.frames(range(len(reader)))
        assert "7 frames are spoilt" in reader.damage  # 23 to 29
        assert reader.intact == pytest.approx(53 / 60)
    with VideoReader(tmp_path / "b.mp4") as reader:
        reader.frames([45])
        assert reader.damage == ""  # nothing damaged was needed


def test_lost_frames_are_found_out_and_the_neighbour_is_given(video, tmp_path):
    path = video.write(tmp_path / "a.mkv", 40, codec="libvpx-vp9", gop=10, options={"lag-in-frames": "0"})
    _, frames = video.sequential(path)
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
        place, size = packets[20].pos, packets[20].size
    data = bytearray(path.read_bytes())
    start = data.index(bytes(packets[20]), place - 16)
    data[start : start + size] = bytes(size)
    (tmp_path / "b.mkv").write_bytes(data)
    with VideoReader(tmp_path / "b.mkv") as reader:
        picks = [19, 20, 35]
        got = reader.frames(picks)
        assert len(reader) == 40  # what is sampled must not depend on what was read before
        assert len(reader.actual) < 40 and reader.actual.exact and "of 40 frames are there" in reader.damage
        assert np.array_equal(got[0], frames[19]) and np.array_equal(got[1], frames[19])
        assert np.array_equal(got[2], frames[35])
        index, actual = reader.index, reader.actual
    with VideoReader(tmp_path / "b.mkv", index=index, actual=actual) as reader:
        assert "of 40 frames are there" in reader.damage and np.array_equal(reader.frames(picks), got)
    with VideoReader(tmp_path / "b.mkv", index=actual) as reader:
        assert len(reader) == len(actual) and np.array_equal(reader.frames([19])[0], frames[19])


def test_a_known_index_saves_the_search(good):
    with VideoReader(good[".avi"]) as reader:
        index = pickle.loads(pickle.dumps(reader.index))
        wanted = reader.frames([3, 20])
    assert isinstance(index, FrameIndex)
    with VideoReader(good[".avi"], index=index) as reader:
        assert reader.index is index and np.array_equal(reader.frames([3, 20]), wanted)


def test_repeats_orders_and_wrong_indices(good):
    with VideoReader(good[".mp4"]) as reader:
        got = reader.frames([7, 2, 7, 29])
        assert got.shape == (4, 48, 64, 3) and got.dtype == np.uint8
        assert np.array_equal(got[0], got[2]) and not np.array_equal(got[0], got[1])
        assert reader.frames([]).shape == (0, 48, 64, 3)
        for wrong in ([30], [-1]):
            with pytest.raises(VtjaxError, match="rising indices below 30"):
                reader.frames(wrong)
        with pytest.raises(VtjaxError, match="rising"):
            list(reader.iterate([3, 1]))


def test_exact_and_scanned_indices_agree(good):
    for suffix, path in good.items():
        with VideoReader(path) as scanned, VideoReader(path, exact=True) as decoded:
            assert decoded.index.exact
            assert np.array_equal(scanned.times, decoded.times), suffix
            assert np.array_equal(scanned.frames([11, 4]), decoded.frames([11, 4]))
