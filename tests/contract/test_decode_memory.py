"""What decoding takes for each pixel of a photo: operators give a container so much for each process that decodes."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from PIL import Image

from contract.pixels import DECODE_BYTES
from tests.conftest import ROOT

SIDE = 3000
# On one processor, since AVIF's decoder has a thread and buffers for each; without huge pages, of which one byte counts as
# 2 MiB (prctl's PR_SET_THP_DISABLE).
MEASURE = """
import ctypes, os, re, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
from contract.pixels import photo_to_pixels
def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
data = sys.stdin.buffer.read()
before = peak()
photo_to_pixels(data, 384)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("WEBP", "RGBA", {"lossless": True}),
        ("PNG", "LA", {}),
        ("TIFF", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("AVIF", "RGBA", {"speed": 10}),
        ("GIF", "P", {"transparency": 0}),
    ],
)
def test_no_format_takes_more_a_pixel_than_is_said(form: str, mode: str, options: dict[str, object]) -> None:
    out = io.BytesIO()
    Image.new(mode, (SIDE, SIDE)).save(out, form, **options)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=out.getvalue(), cwd=ROOT, capture_output=True, check=True
    )
    taken = int(done.stdout) / SIDE**2
    print(f"{form} {mode}: {taken:.1f} bytes a pixel")
    assert 1 < taken < DECODE_BYTES
