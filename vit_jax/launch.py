"""Which of several processes this one is, by flags or by what started it."""

import dataclasses
import os
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Place:
    """One process among several, as flags or the environment tell it."""

    number: int
    """Of processes in all."""
    index: int
    coordinator: str | None
    """HOST:PORT of process 0; None: JAX knows it from the scheduler."""
    scheduler: str | None = None
    """The name by which JAX knows the scheduler."""
    local: int | None = None
    """Which of the processes on its machine, and so the number of its only device; None: it has all
    devices of its machine."""


def find_place(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Place | None:
    """What flags say, else JAX_COORDINATOR_ADDRESS and its kin, else SLURM, else Open MPI.

    Returns:
      None where no more than one process is announced.

    Raises:
      ValueError: something of it is missing or makes no sense.
    """
    flags = {"--coordinator": coordinator, "--num-processes": num_processes}
    flags["--process-id"] = process_id
    if missing := [name for name, value in flags.items() if value is None]:
        if len(missing) < len(flags):
            raise ValueError(
                f"{', '.join(missing)}: missing; one of several processes is told its coordinator "
                "as --coordinator=HOST:PORT, --num-processes and --process-id"
            )
        return _checked(_from_environment(environment))
    assert num_processes is not None
    assert process_id is not None
    return _checked(Place(num_processes, process_id, coordinator))


def _from_environment(environment: Mapping[str, str]) -> Place | None:
    def number(*names: str) -> int | None:
        text = next((environment[name] for name in names if environment.get(name)), None)
        if text is not None and not text.isdecimal():
            raise ValueError(f"{' or '.join(names)}={text}: should be a whole number")
        return None if text is None else int(text)

    address = environment.get("JAX_COORDINATOR_ADDRESS") or None
    ours = number("JAX_NUM_PROCESSES"), number("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX")
    slurm = number("SLURM_STEP_NUM_TASKS"), number("SLURM_PROCID")
    mpi = number("OMPI_COMM_WORLD_SIZE"), number("OMPI_COMM_WORLD_RANK")
    # As JAX does it where it asks the scheduler itself.
    local = {
        None: None,
        "slurm": number("SLURM_LOCALID"),
        "ompi": number("OMPI_COMM_WORLD_LOCAL_RANK"),
    }
    for (processes, index), scheduler in ((ours, None), (slurm, "slurm"), (mpi, "ompi")):
        if processes is None or processes < 2:
            continue
        known = scheduler == "slurm" or "OMPI_MCA_orte_hnp_uri" in environment
        if index is None or (address is None and (scheduler is None or not known)):
            raise ValueError(
                f"{processes} processes are announced, but not where process 0 is, or which this "
                "is: set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID, "
                "or give --coordinator, --num-processes and --process-id"
            )
        return Place(processes, index, address, None if address else scheduler, local[scheduler])
    return None


def _checked(place: Place | None) -> Place | None:
    if place is None or (place.number == 1 and place.index == 0):
        return None
    if not 0 <= place.index < place.number:
        raise ValueError(
            f"--process-id={place.index} with --num-processes={place.number}: should be at least 0 "
            f"and below {place.number}"
        )
    host, _, port = (place.coordinator or "host:1").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"--coordinator={place.coordinator}: should be HOST:PORT, a free port of process 0"
        )
    return place
