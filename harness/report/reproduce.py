"""Everything that is needed to run a study again: its file, the command, seeds, hashes, versions, the machine."""

from harness.config.load import dump_yaml
from harness.ensemble.names import WITHOUT_TRAINING
from harness.output.documents import Section, Table
from harness.report.collect import Collected

UNKNOWN = "not recorded by the version that ran it"


def reproduce_section(found: Collected) -> Section:
    record = found.record
    name = found.name
    made = record.made_with
    trial = found.chosen if found.asked else None
    tree = found.study.fill(trial.params) if trial else record.tree
    file = f"{name}-trial-{trial.number}" if trial else name
    tree = {**tree, "name": file}
    if trial:
        tree["search"] = {**tree["search"], "trials": 1, "enqueue": []}
    commands = [f"harness study run {file}.yaml"]
    commands += _ablations(found, file, 0 if trial else None)
    if not trial:
        commands += _builds(found)
    facts = [
        ("study hash", record.spec_hash),
        ("data hash", record.data_hash),
        ("folds hash", record.folds_hash),
        ("audit hash", record.audit_hash or UNKNOWN),
        ("seed", str(record.tree["seed"])),
        *((f"precision of {backbone}", how) for backbone, how in record.precision.items()),
        *((f"weights {start}", meant) for start, meant in record.starts.items() if start != meant),
        *(made.items() if made else (("commit, machine, versions", UNKNOWN),)),
    ]
    if trial:
        facts.insert(0, ("trial hash", trial.tree_hash or UNKNOWN))
    answer = (
        f"Save the file below as {file}.yaml and run it: the same file, data and versions give the same numbers on the "
        "same kind of machine."
    )
    table = Table("What it was made of", ("what", "value"), facts, "ll")
    commands_ = Table("What to type", ("command",), [(command,) for command in commands], "l")
    return Section("reproduce", "Run it again", answer, "", (commands_, table), listing=dump_yaml(tree))


def _ablations(found: Collected, study: str, number: int | None) -> list[str]:
    """What trains the arms of each ablation that has been run; number: what the trial is called in `study`, where that
    is the file of one trial alone."""
    commands = []
    for table in found.ablations:
        asked: dict[str, list[str]] = {}
        for row in table["rows"]:
            other = row["from"] if row["base"] == "to" else row["to"]
            asked.setdefault(row["factor"], []).append(str(other).lower() if isinstance(other, bool) else str(other))
        factors = " ".join(f"--factor {name}={','.join(values)}" for name, values in asked.items())
        trial = table["trial"] if number is None else number
        commands.append(f"harness study ablate {study} --trial {trial} --seeds {table['seeds']} {factors}")
    return commands


def _builds(found: Collected) -> list[str]:
    """What builds the ensembles; every method of one number of members is `all`."""
    tops: dict[int, list[str]] = {}
    for one in found.built:
        tops.setdefault(int(one.about["top"]), []).append(one.method)
    return [
        f"harness ensemble build --method {method} --top {top} --study {found.name}"
        for top, built in tops.items()
        for method in (["all"] if set(WITHOUT_TRAINING) <= set(built) else built)
    ]
