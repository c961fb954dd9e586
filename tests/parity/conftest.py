"""The modules beside the tests import PyTorch; pytest is not to search them for examples."""

collect_ignore = [
    "attention.py",
    "layouts.py",
    "measure.py",
    "references.py",
    "skeleton.py",
    "table.py",
    "tutorials.py",
]
