"""What tests of weights lay out, and how the command line has to refuse it."""

from vit_jax.cli import main


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def refused(capsys, *arguments):
    """What `vit-jax …`, which has to fail, says in its one message."""
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert captured.err.startswith("Error: ")
    return captured.err.removeprefix("Error: ").removesuffix("\n")
