"""The old spelling of `python -m app.tools.smoke`, for one release."""

from contract.cli import moved

if __name__ == "__main__":
    moved("app.smoke", "app.tools.smoke")
