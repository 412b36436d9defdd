import asyncio

from tenacity import retry, wait_fixed

from tests.parked import look_at, waits_of


def test_a_sleep_between_attempts_tells_how_many_were_made():
    def make():
        tries = iter([0.01, 0.01, 60])

        @retry(wait=lambda state: next(tries))
        async def load():
            await asyncio.sleep(0)
            raise ConnectionRefusedError

        return {"loads": load()}

    seen = waits_of(look_at(make, settle_s=0.3), "loads")
    assert seen.kind == "timer"
    assert (seen.state["attempts"], seen.state["function"].rpartition(".")[2]) == (3, "load")


def test_an_attempt_itself_waits_for_what_it_waits_for():
    def make():
        @retry(wait=wait_fixed(60))
        async def load():
            await asyncio.Event().wait()

        return {"loads": load()}

    assert waits_of(look_at(make), "loads").kind == "event"
