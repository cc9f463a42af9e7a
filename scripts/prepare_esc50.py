"""Prepare ESC-50 (50 classes, 2,000 clips, 0.9 GB): unpack, verify.

    wget -O downloads/ESC-50-master.zip https://github.com/karolpiczak/ESC-50/archive/master.zip
    python scripts/prepare_esc50.py --archives downloads --data-dir data

Makes data/esc-50/{meta,audio}. Clips stay at 44.1 kHz; they are resampled when they are read. A folder that is there
already is left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("esc-50", description=__doc__))
