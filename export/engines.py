"""The old spelling of `python -m app.tools.build_engines`, for one release."""

from contract.cli import moved

if __name__ == "__main__":
    moved("export.engines", "app.tools.build_engines")
