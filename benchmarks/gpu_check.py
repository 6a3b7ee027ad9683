"""The old spelling of `python -m benchmarks.gpu.check`, which it runs: scripts on machines with a GPU call it so."""

from benchmarks.gpu.check import main

if __name__ == "__main__":
    raise SystemExit(main())
