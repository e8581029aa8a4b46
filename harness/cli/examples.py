"""One to four commands to copy for every command of the program, in the order in which a person needs them."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "harness study run lr_aug_sweep",
        "harness ensemble build",
        "harness init my_images",
    ),
    "init": (
        "harness init my_images",
        "harness init data/medmnist/breastmnist.npz",
        "harness init my_images --out studies/first.yaml",
    ),
    "study": (
        "harness study run lr_aug_sweep",
        "harness study show",
    ),
    "study run": (
        "harness study run lr_aug_sweep",
        "harness study run my_study --set search.trials=40",
        "harness study run my_study --jobs 4 --device cuda",
        "harness study run my_study --set optim.name=sgd --as my_sgd",
    ),
    "study resume": (
        "harness study resume my_study",
        "harness study resume my_study --device cuda:0,cuda:1 --jobs 2",
    ),
    "study list": (
        "harness study list",
        "harness study list --json",
    ),
    "study show": (
        "harness study show",
        "harness study show my_study --all",
        "harness study show my_study --json",
    ),
    "study reference": ("harness study reference > study-file.md",),
    "study schema": (
        "harness study schema > studies/schema.json",
        "sed -i '1i # yaml-language-server: $schema=schema.json' studies/my_study.yaml",
    ),
    "study ablate": (
        "harness study ablate my_study --dry-run",
        "harness study ablate my_study --seeds 5",
        "harness study ablate my_study --factor augment",
        "harness study ablate my_study --factor optim.lr=1e-4,1e-3",
    ),
    "study importance": (
        "harness study importance",
        "harness study importance my_study --method fanova",
    ),
    "study plots": (
        "harness study plots my_study",
        "harness study plots my_study --out figures",
    ),
    "study report": (
        "harness study report my_study --out report.html",
        "harness study report my_study --trial 7 --no-images",
        "harness study report my_study --format md --out report.md",
    ),
    "study compare": (
        "harness study compare my_study my_sgd",
        "harness study compare my_study/3 my_study/7",
    ),
    "ensemble": (
        "harness ensemble build",
        "harness ensemble list",
    ),
    "ensemble build": (
        "harness ensemble build --method all --study my_study",
        "harness ensemble build --method all --nested full",
        "harness ensemble build --method greedy --top 10 --decide sensitivity=.95",
        "harness ensemble build --study my_cnn --study my_vit",
    ),
    "ensemble list": (
        "harness ensemble list",
        "harness ensemble list --study my_study --json",
    ),
    "ensemble show": ("harness ensemble show my_study/stacking-top5",),
    "ensemble register": (
        "harness ensemble register my_study/stacking-top5",
        "harness ensemble register my_study/stacking-top5 --name ward-3",
    ),
    "ensemble diagram": (
        "harness ensemble diagram my_study/stacking-top5",
        "harness ensemble diagram my_study/mean-top5 --format plantuml",
    ),
    "predict": (
        "harness predict my_study/stacking-top5 new_images",
        "harness predict my_study/mean-top5 a.png b.dcm --json",
        "harness predict my_study/mean-top5 scans --out answers.csv --explain heat",
        "harness predict my_study/mean-top5 scans --per series --abstain .05",
    ),
    "evaluate": (
        "harness evaluate my_study/stacking-top5 --data other_hospital",
        "harness evaluate my_study/mean-top5 --data studies/other.yaml",
        "harness evaluate my_study/mean-top5 --data other_hospital --map ill=sick --by sex",
    ),
    "data": (
        "harness data show my_study",
        "harness data audit my_study",
    ),
    "data fetch": (
        "harness data fetch breastmnist",
        "harness data fetch https://example.org/images.zip --to data",
    ),
    "data scan": (
        "harness data scan my_study",
        "harness data scan my_study --set data.on_error=drop",
    ),
    "data show": (
        "harness data show my_study",
        "harness data show my_study --out data.html",
    ),
    "data audit": (
        "harness data audit my_study",
        "harness data audit my_study --json",
    ),
    "data decode": (
        "harness data decode scan.dcm --out shown.png",
        "harness data decode scan.dcm --out shown.png --study my_study",
        "harness data decode scan.dcm --out shown.png --set data.decode.window=[40,80]",
    ),
    "data cache": (
        "harness data cache list",
        "harness data cache prune --dry-run",
    ),
    "data cache list": ("harness data cache list",),
    "data cache prune": (
        "harness data cache prune --dry-run",
        "harness data cache prune --days 30",
    ),
    "models": (
        "harness models list --filter resnet",
        "harness models show resnet18",
    ),
    "models list": (
        "harness models list --filter resnet",
        "harness models list --family vit --sort parameters --limit 10",
    ),
    "models show": ("harness models show resnet18",),
    "models diagram": (
        "harness models diagram resnet18",
        "harness models diagram resnet18 --depth 2 --size 128 --channels 1",
    ),
    "models export": ("harness models export my_study/mean-top5 --out network.onnx --member trial-0007 --fold 0",),
    "ui": (
        "harness ui",
        "harness ui --port 5050",
    ),
    "doctor": (
        "harness doctor",
        "harness doctor --json",
    ),
    "completion": (
        "harness completion bash > ~/.local/share/bash-completion/completions/harness",
        "harness completion zsh > ~/.zfunc/_harness",
        "harness completion fish > ~/.config/fish/completions/harness.fish",
    ),
}
