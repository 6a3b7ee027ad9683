"""The old spelling of `python -m training.evaluate.probe`, for one release."""

from contract.cli import moved

if __name__ == "__main__":
    moved("training.probe", "training.evaluate.probe")
