"""Nothing here runs with the other tests: petastorm has an environment of its own (`make test-petastorm`)."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("petastorm") else ["test_*.py"]
