"""The suites are shipped with the package: their assertions are rewritten as those of tests are."""

import pytest

pytest.register_assert_rewrite("tailrace.core.testing")
