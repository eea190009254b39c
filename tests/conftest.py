"""What all tests share: how long hypothesis searches, and whether a run can be repeated.

``HYPOTHESIS_PROFILE`` picks one: ``dev`` (the default) finds new examples each time, ``ci`` always tries the
same ones, ``deep`` searches for long, by hand, after a change of the core.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Shared machines pause a process at any place, so a deadline would say nothing about the code.
_SLOW_IS_FINE = (HealthCheck.too_slow,)

settings.register_profile("dev", max_examples=40, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.register_profile(
    "ci",
    max_examples=40,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=_SLOW_IS_FINE,
)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What ``feed check`` keeps is kept apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
