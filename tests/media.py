"""Sounds and videos as files, for tests."""

import io
import struct
import tempfile
import wave
from pathlib import Path

import numpy as np


def wav_bytes(samples: np.ndarray, rate: int = 8000, bits: int = 16) -> bytes:
    """Plain samples (T,) or (T, channels) between −1 and 1 as a WAV file of so many bits."""
    samples = samples[:, None] if samples.ndim == 1 else samples
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        whole = np.round(samples * 2 ** (bits - 1)).clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)
        whole = whole + 128 if bits == 8 else whole
        file.writeframes(b"".join(int(n).to_bytes(bits // 8, "little", signed=bits > 8) for n in whole.ravel()))
    return buffer.getvalue()


def float_wav_bytes(samples: np.ndarray, rate: int = 8000) -> bytes:
    """The same as a WAV file of 32-bit floats, which the standard library does not read."""
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    body = b"WAVE" + head + struct.pack("<4sI", b"data", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mp4_bytes(frames: np.ndarray, form: str = "mp4", index_first: bool = False, rate: int = 10) -> bytes:
    """Frames (T, H, W, 3) uint8 as a video file, nearly without loss. index_first: an MP4 as made for streaming."""
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video")
        options = {"movflags": "faststart"} if index_first else {}
        with av.open(str(path), "w", format=form, options=options) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "preset": "ultrafast"})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv444p"
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            container.mux(stream.encode())
        return path.read_bytes()


def mp4_with_sound(frames: np.ndarray, sound: np.ndarray, rate: int = 8000, frames_a_second: int = 10) -> bytes:
    """Frames (T, H, W, 3) uint8 and samples (T,) or (T, channels) between −1 and 1 as one video file."""
    import av

    planes = np.ascontiguousarray((sound[:, None] if sound.ndim == 1 else sound).T.astype(np.float32))
    layout = "mono" if len(planes) == 1 else "stereo"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video")
        with av.open(str(path), "w", format="mp4") as container:
            video = container.add_stream("libx264", rate=frames_a_second, options={"crf": "1", "preset": "ultrafast"})
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "yuv444p"
            audio = container.add_stream("aac", rate=rate, layout=layout)
            for pixels in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            container.mux(video.encode())
            for start in range(0, planes.shape[1], 1024):
                part = np.ascontiguousarray(planes[:, start : start + 1024])
                heard = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                heard.sample_rate, heard.pts = rate, start
                container.mux(audio.encode(heard))
            container.mux(audio.encode())
        return path.read_bytes()
