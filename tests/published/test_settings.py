"""The defaults are the published settings, from a table with sources."""

import pytest

from tests.published.readings import Published
from tests.published.settings_table import PUBLISHED


@pytest.mark.parametrize("setting", PUBLISHED, ids=lambda setting: setting.name.replace(" ", "-"))
def test_the_default_is_the_published_setting(setting: Published) -> None:
    ours = setting.ours()
    assert ours == setting.value, setting.source
    assert isinstance(ours, bool) == isinstance(setting.value, bool)
