"""The smallest service: it hears commands, and does what their text says. Run by the tests."""

import asyncio
import signal
import sys
from pathlib import Path

from pydantic import SecretStr

from contracts.messages import InvalidateNamespace
from services.chassis import bus, http, outbox, process
from services.chassis.bus import Bus, Subscription
from services.chassis.process import Process
from services.chassis.settings import ServiceSettings

EXIT = "exit"  # Ends the subscriber that hears it, the first time.
HOLD = "hold"  # Is held until SIGUSR1 comes.
SAY = "say"  # The same; before and after it, the listener says something itself.


async def main(port: int, notes: Path, stop_seconds: float) -> None:
    process.STOP_SECONDS = stop_seconds
    bus.GRACEFUL_SECONDS = stop_seconds
    settings = ServiceSettings(database_url=SecretStr("postgresql://nobody@127.0.0.1:9/none"))
    released = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, released.set)

    def note(words: str) -> bool:
        """Write down what happened; whether it had not happened before."""
        with notes.open("a+") as file:
            file.seek(0)
            known = f"{words}\n" in file.readlines()
            file.write(f"{words}\n")
        return not known

    async def say(namespace: str) -> None:
        message = InvalidateNamespace(namespace=namespace)
        headers = outbox.envelope(message)
        payload = message.model_dump_json().encode()
        await ears.publish(message.topic, message.key(), headers, payload)

    async def handle(command: InvalidateNamespace) -> None:
        first = note(f"heard {command.namespace}")
        if command.namespace == EXIT and first:
            raise SystemExit
        if command.namespace == SAY:
            await say("before")
            note("said before")  # From now on its producer knows the topic.
        if command.namespace in {HOLD, SAY}:
            await released.wait()
        if command.namespace == SAY:
            await say("after")
        note(f"handled {command.namespace}")

    async with Process("listener", settings) as life:
        ears = Bus(settings.shared, "listener")
        app = http.create_app("listener", {"kafka": ears.problems})
        await life.enter(http.serve(app, "127.0.0.1", port))
        ears.subscribe(
            [Subscription(InvalidateNamespace.topic, {InvalidateNamespace: handle}, "planner")],
            "listener-0",
        )
        life.at_stop(ears.stop)
        await life.unless_stopped(ears.start())
        life.keep("bus", ears.watch())
        await life.until_stopped()


if __name__ == "__main__":
    process.run(main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
