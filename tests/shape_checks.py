"""The type checker that the import hook in conftest.py puts on every function of `nn` and `positions`."""

from beartype import BeartypeConf, beartype

# As for every static type checker, an int will do where a float is asked [PEP 484].
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
