"""Whose code a frame is of, by its path alone."""

import pytest

from hangwatch.integrations.recognise import _place


@pytest.mark.parametrize(
    "file, library",
    [
        ("/usr/lib/python3.11/asyncio/locks.py", True),
        ("/srv/venv/lib/python3.11/site-packages/anything/at.py", True),
        # Put there by `pip install --target`, or by a build that has no site-packages.
        ("/deps/uvicorn/protocols/http/flow_control.py", True),
        ("/deps/uvicorn/server.py", True),
        ("/srv/shop/orders.py", False),
        # Names of modules of the standard library's are free for anybody's own files.
        ("/srv/shop/queue.py", False),
        ("/srv/shop/server.py", False),
    ],
)
def test_of_a_library_or_the_applications_own(file, library):
    assert _place(file, "drain").library is library
