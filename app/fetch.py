"""The old spelling of `python -m app.tools.fetch`, for one release."""

from contract.cli import moved

if __name__ == "__main__":
    moved("app.fetch", "app.tools.fetch")
