"""What checks shapes and types in tests: beartype, with ints allowed for floats as PEP 484 says."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
