"""What `annobus up` leaves behind: the process above the system, without a terminal.

Run as `python -m services.cli.daemon OPTIONS`, OPTIONS being those of processes.py as JSON.
"""

import sys

from infra.errors import InfraError
from services.cli import output, signals
from services.cli.errors import CommandFailed
from services.cli.processes import Options
from services.cli.system import System


async def main(options: Options) -> int:
    async with System(options, "up", output.say) as system:
        await system.wait()
    return 0


def run(options: Options) -> int:
    output.accept_any_text()
    try:
        return signals.run(lambda: main(options))
    except InfraError as error:
        output.show_failure(CommandFailed(str(error)))
        return CommandFailed.exit_code
    except CommandFailed as error:
        output.show_failure(error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(run(Options.model_validate_json(sys.argv[1])))
