"""Which sound a video format takes, and under what name for its channels."""

from __future__ import annotations

import io

import av
from av.audio.stream import AudioStream
from av.error import FFmpegError

# By FFmpeg's name for PCM without an order of channels, as AVI and Matroska have it: the order that FLAC gives so many
# (RFC 9639, 9.1.3). Lt/Rt is stereo to whoever has no decoder for it; mp4 has no word for it.
_LAYOUTS = {
    "2 channels": "stereo",
    "3 channels": "3.0",
    "4 channels": "quad",
    "5 channels": "5.0",
    "6 channels": "5.1",
    "7 channels": "6.1",
    "8 channels": "7.1",
    "downmix": "stereo",
}


def missing_layout(stream: AudioStream, format: str) -> str | None:
    """What to call the channels of PCM that mp4 refuses as they are; None if the sound is taken as it is, ValueError if
    it can't be taken.

    Tried out on a file of its own, because the film's header is so late that all would be lost with it. That of PCM is
    written at once; for AC-3, FFmpeg has to see a packet first.
    """
    if stream.codec_context is None:
        return None
    codec = stream.codec_context.name
    pcm = codec.startswith("pcm_")
    options = {"movflags": "empty_moov" if pcm else "delay_moov"}
    with av.open(io.BytesIO(), "w", format=format, container_options=options) as trial:
        context = trial.add_stream_from_template(stream).codec_context
        try:
            trial.start_encoding()
        except FFmpegError:
            name = context.layout.name
            context.layout = "mono"  # PyAV has just freed a list of channels that it doesn't own, and would once more
            if pcm and name in _LAYOUTS:
                return _LAYOUTS[name]
            raise ValueError(f"'{format}' format does not support {name if pcm else f'this {codec!r}'}") from None
    return None
