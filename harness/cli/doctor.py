"""harness doctor: what this machine and this home have, what is wrong with them, and what to type."""

from typing import Annotated, Any

import typer

from harness.cli.output import claim_stdout, print_json, show, show_command


def doctor(json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False) -> None:
    """Versions, devices, memory, disk, stores, codecs, weights at hand; and each problem with what to type.

    Exit code 1 where something that a study needs is broken.
    """
    claim_stdout()
    from harness.doctor import examine
    from harness.errors import HarnessError

    found = examine()
    if json:
        print_json(found)
    else:
        _show(found)
    broken = sum(problem.breaks for problem in found["problems"])
    if broken:
        from harness.output.format import plural

        raise HarnessError(f"{plural(broken, 'thing')} that a study needs {'is' if broken == 1 else 'are'} broken.")


def _show(found: dict[str, Any]) -> None:
    from harness.output.format import bytes_, plural
    from harness.output.tables import table

    memory, free = found["memory_free_gib"], found["disk_free_gib"]
    lines: list[tuple[str, str]] = [("python", found["python"])]
    lines += [(name, version or "MISSING") for name, version in found["packages"].items()]
    lines += [("processor", f"{found['cores']} cores, bf16 {'yes' if found['cpu_bf16'] else 'no (fp32 is used)'}")]
    lines += [("memory free", "-" if memory is None else f"{memory:.1f} GiB")]
    lines += [("gpu", _gpu(gpu)) for gpu in found["gpus"]] or [("gpu", "none that torch can use: --device cpu")]
    lines += [("codecs", ", ".join(name for name, there in found["codecs"].items() if there) or "-")]
    weights = found["weights"]
    at_hand = f"{plural(len(weights), 'file')}, {bytes_(sum(one['bytes'] for one in weights))}"
    lines += [("weights", f"{at_hand}, in the libraries' caches" if weights else "none yet; downloaded when asked for")]
    lines += [("home", found["home"]), ("disk free", "-" if free is None else f"{free:.1f} GiB")]
    used = [f"{part} {bytes_(size)}" for part, size in found["used"].items() if size]
    lines += [("used", ", ".join(used) or "nothing yet")]
    lines += [(name, _store(found[name])) for name in ("mlflow", "optuna")]
    lines += [("studies", ", ".join(f"{name} ({state})" for name, state in found["studies"].items()) or "none yet")]
    show(table(["", ""], lines))
    for problem in found["problems"]:
        show(f"\n{'BROKEN' if problem.breaks else 'look'}: {problem.what}")
        show_command(problem.type)
    show("\nNext:" if found["problems"] else "\nNothing is wrong. Next:")
    show_command(found["next"])


def _gpu(gpu: dict[str, Any]) -> str:
    precision = "bf16" if gpu["bf16"] else "fp16"
    memory = f"{gpu['memory_free_gib']:.0f} of {gpu['memory_gib']:.0f} GiB free"
    return f"{gpu['device']} {gpu['name']}, {memory}, {precision}"


def _store(store: dict[str, Any] | None) -> str:
    return "-" if store is None else f"{store['store']}{' DOES NOT ANSWER' if store['error'] else ''}"
