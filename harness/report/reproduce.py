"""Everything that is needed to run a study again: its file, the command, seeds, hashes, versions, the machine."""

from harness.report.collect import Collected
from harness.report.section import Section, Table
from harness.study.load import dump_yaml

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
    if not trial:
        build = "harness ensemble build --method"
        commands += [f"{build} {one.method} --top {len(one.about['members'])} --study {name}" for one in found.built]
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
