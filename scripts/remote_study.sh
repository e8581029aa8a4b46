#!/usr/bin/env bash
# Runs a study on another machine over ssh, and brings its mlruns/ back.
#
#   scripts/remote_study.sh [OPTION ...] [USER@]HOST STUDY [option of `harness study run` ...]
#
#   --data FOLDER    first send this folder to the same relative place there; repeatable
#   --to FOLDER      where the results go here; left out: mlruns
#   --dir FOLDER     where all of it is there, from the home folder on; left out: harness-runs/STUDY
#   --harness PATH   a harness that is installed there already; left out: this checkout's wheel, and the lock's packages
#   --stop           end the running study, whose state is kept, and bring back what there is
#
# The study is a process of its own there: a broken line, or Ctrl-C here, does not end it. The same command again
# follows it, goes on with it if it was stopped, or brings its results back if it has ended. STUDY is a name, or a YAML
# file, which is sent. Port, key and user belong into ~/.ssh/config; HARNESS_SSH is another ssh command than `ssh`.
#
# Needed on both sides: Linux, bash, rsync; there also Python 3.11 to 3.13 with venv, or uv. docs/container.md has more.
set -euo pipefail

patience=${HARNESS_REMOTE_SECONDS:-10} # seconds between two looks
tries=${HARNESS_REMOTE_TRIES:-60}      # unanswered looks in a row after which this end gives up; the study does not
read -ra ssh_words <<<"${HARNESS_SSH:-ssh}"
ssh_words+=(-o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4)

exec 3>&2 # for a signal that comes while a command's own messages are being caught
say() { printf '%s\n' "$*" >&3; }
fail() {
  say "error: $2"
  exit "$1"
}

# --- what is asked for ---

data=() to=mlruns dir='' harness='' stop=no
while [[ ${1:-} == -* ]]; do
  case $1 in
    --data | --to | --dir | --harness)
      [[ $# -ge 2 ]] || fail 2 "$1 needs a value"
      case $1 in
        --data) data+=("${2%/}") ;;
        --to) to=${2%/} ;;
        --dir) dir=${2%/} ;;
        --harness) harness=$2 ;;
      esac
      shift 2
      ;;
    --stop) stop=yes && shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;;
    *) fail 2 "there is no option $1. Type: $0 --help" ;;
  esac
done
[[ $# -ge 2 ]] || fail 2 "HOST and STUDY are needed. Type: $0 --help"
host=$1 study=$2
shift 2
[[ $host != -* ]] || fail 2 "a host does not begin with a dash: $host"
[[ -e $study || ! -e studies/$study.yaml ]] || study=studies/$study.yaml
name=${study##*/} name=${name%.yaml}
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail 2 "$name is no name of a study"
[[ $study != *.yaml || -f $study ]] || fail 2 "there is no file $study"
dir=${dir:-harness-runs/$name}
to=$(realpath -m "$to")
for folder in "${data[@]}"; do
  [[ -d $folder ]] || fail 2 "--data $folder: there is no such folder"
  [[ $folder != /* && /$folder/ != */../* ]] || fail 2 "--data $folder must be a relative path below this folder"
done
for tool in "${ssh_words[0]}" rsync flock; do
  command -v "$tool" >/dev/null || fail 2 "$tool is not installed here. On Debian: apt-get install openssh-client rsync util-linux"
done

# --- the line ---

# The script on stdin runs there with the arguments given. They travel inside it, quoted for bash, so that neither
# blanks in a path nor the login shell of that machine matter.
there() {
  { printf 'set --' && printf ' %q' "$@" && echo && cat; } | "${ssh_words[@]}" "$host" bash -s
}
# rsync with the folder there locked, so that no study starts under a copy. The login shell reads --rsync-path.
copy() {
  rsync -a --secluded-args -e "${ssh_words[*]}" --rsync-path="flock -w 5 '${dir//\'/\'\\\'\'}/lock' rsync" "$@"
}

look_about() {
  there "$dir" <<'REMOTE'
set -euo pipefail
for tool in rsync flock; do
  command -v $tool >/dev/null || { echo "error: $tool is not installed there: apt-get install rsync util-linux" >&2; exit 2; }
done
cd ~ && mkdir -p "$1" && cd "$1" && touch lock log
pwd
if flock -n lock true; then echo idle; else echo running; fi
if [ -e arguments ]; then tr '\n' ' ' <arguments; fi
echo
echo $(($(wc -c <log) - $(tail -n 5 log | wc -c)))
REMOTE
}

# --- what is there ---

install_wheel() {
  local root uv work=$1
  root=$(cd "$(dirname "$0")/.." && pwd)
  uv=$(PATH=$root/.venv/bin:$PATH command -v uv) || fail 2 "uv is not here. Type: make -C $root setup"
  say "sending harness to $host"
  "$uv" build --quiet --wheel --out-dir "$work/wheel" "$root"
  "$uv" export --quiet --frozen --no-dev --no-emit-project --extra postgres --project "$root" -o "$work/wheel/requirements.txt" >/dev/null
  copy --delete "$work/wheel/" "$host:$dir/wheel/"
  there "$dir" <<'REMOTE' >&2
set -euo pipefail
cd "$1"
uv=$(PATH=$PATH:$HOME/.local/bin command -v uv) || uv=$PWD/uv/bin/uv
if [ ! -x "$uv" ]; then
  echo "installing uv there"
  python3 -m venv uv && uv/bin/pip install --quiet --disable-pip-version-check uv
fi
[ -x venv/bin/python ] || "$uv" venv --quiet --python '>=3.11,<3.14' venv
echo "installing what the lock names there; the first time takes minutes"
"$uv" pip sync --quiet --python venv --require-hashes wheel/requirements.txt
"$uv" pip install --quiet --python venv --no-deps --reinstall wheel/*.whl
venv/bin/harness --version
REMOTE
}

send() {
  local folder
  [[ $study != *.yaml ]] || copy "$study" "$host:$dir/$name.yaml"
  for folder in "${data[@]}"; do
    say "sending $folder"
    copy --relative --partial "./$folder/" "$host:$dir/"
  done
}

# A process of its own session, in no terminal: nothing that happens to this line reaches it. It holds the lock, and
# its workers with it, as long as one of them lives.
begin() {
  local program=${harness:-$dir/venv/bin/harness} what=$name
  [[ $study != *.yaml ]] || what=$name.yaml
  there "$dir" "$program" "$what" "$@" <<'REMOTE'
set -euo pipefail
cd "$1" && shift
[ -x "$1" ] || { echo "error: there is no program $1 there" >&2; exit 2; }
rm -f pid ended && : >log
printf '%s\n' "${@:2}" >arguments
export HARNESS_HOME=$PWD/mlruns PYTHONUNBUFFERED=1
setsid nohup flock -w 30 lock bash -c '
  "$1" study run "${@:2}" & echo $! >pid
  code=0 && wait $! || code=$?
  echo $code >ended.new && mv ended.new ended
' _ "$@" >>log 2>&1 </dev/null &
for _ in $(seq 300); do [ ! -e pid ] || exit 0; sleep 0.1; done
echo "error: it did not begin" >&2 && exit 1
REMOTE
}

end() {
  there "$dir" <<'REMOTE'
cd "$1" && flock -n lock true || kill -TERM "$(cat pid)"
REMOTE
}

# One look: "running" or "ended CODE", then what the log has beyond the given number of bytes.
look() {
  there "$dir" "$1" <<'REMOTE'
set -euo pipefail
cd "$1"
if ! flock -n lock true; then echo running; elif [ -e ended ]; then echo "ended $(cat ended)"; else echo "ended 137"; fi
tail -c "+$(($2 + 1))" log
REMOTE
}

# The log of the study, until it has ended; its exit code. A look that fails has shown nothing and is made again.
follow() {
  local work=$1 seen=$2 silent=0 state
  while true; do
    if look "$seen" >"$work/look" 2>"$work/said"; then
      if ((silent)); then say "$host answers again"; fi
      silent=0
      IFS= read -r state <"$work/look"
      tail -n +2 "$work/look" >"$work/new"
      cat "$work/new" >&2
      seen=$((seen + $(wc -c <"$work/new")))
      [[ $state == running ]] || return "${state#ended }"
    else
      ((silent)) || say "$host does not answer ($(tail -n 1 "$work/said")); the study goes on there. Trying again."
      silent=$((silent + 1))
      ((silent < tries)) || fail 1 "$host has not answered $tries times. The same command follows the study again."
    fi
    sleep "$patience"
  done
}

# --- back ---

# What a person makes out of results: everything but the pages that looking at them touches, and what can be made again.
fingerprint() {
  (cd "$1" && find . -type f ! -name '*.lock' ! -name '.*' ! -name 'mlflow.db*' ! -path './pixels/*' \
    -printf '%P %s %T@\n' | LC_ALL=C sort | sha256sum)
}

may_replace() {
  local from
  [[ ! -e $to || -z $(find "$to" -mindepth 1 ! -name .gitkeep -print -quit) ]] && return
  from=$(cat "$to/.remote" 2>/dev/null) || fail 2 "$to holds results of this machine. Bring these elsewhere: --to FOLDER"
  [[ ${from%%$'\n'*} == "$host:$dir" ]] ||
    fail 2 "$to holds the results of ${from%%$'\n'*}. Bring these elsewhere: --to FOLDER"
  [[ ${from#*$'\n'} == "$(fingerprint "$to")" ]] ||
    fail 2 "$to was changed here after it came from $host. Bring the newer results elsewhere: --to FOLDER"
}

# Everything beside what is there, compared byte by byte, and only then in its place.
bring_back() {
  local new old differing finished complete
  new=$(dirname "$to")/.${to##*/}.incoming old=$(dirname "$to")/.${to##*/}.replaced
  mkdir -p "$(dirname "$to")"
  exec 9>"$new.lock" && flock 9 # two that follow one study see its end at the same time
  may_replace
  say "bringing results to $to"
  mkdir -p "$new"
  copy --delete --partial --exclude=.remote --link-dest="$to" "$host:$dir/mlruns/" "$new/"
  differing=$(copy --checksum --dry-run --itemize-changes --exclude=.remote "$host:$dir/mlruns/" "$new/")
  [[ $differing != *">f"* ]] || fail 1 "files differ from those there: ${differing}. The same command brings them again."
  complete=$({ grep -ls '"state": "complete"' "$new/work/$name/trials/"[0-9]*.json || true; } | wc -l)
  finished=$({ find "$new/artifacts/$name" -mindepth 3 -maxdepth 3 -name DONE 2>/dev/null || true; } | wc -l)
  ((finished >= complete)) || fail 1 "$complete trials are complete, $finished have all their files: $new is kept, $to is as it was"
  printf '%s\n%s\n' "$host:$dir" "$(fingerprint "$new")" >"$new/.remote"
  [[ ! -e $to/.gitkeep ]] || cp -p "$to/.gitkeep" "$new/"
  rm -rf "$old"
  [[ ! -e $to ]] || mv -T "$to" "$old"
  mv -T "$new" "$to"
  rm -rf "$old" "$new.lock"
  say "$complete complete trials are in $to. To look at them: HARNESS_HOME=$to harness study show $name"
}

# --- the whole ---

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# From here on the study runs without this script. Set before it is said, so that who reads it may kill the script.
goes_on_when_killed() {
  trap 'say "the study goes on at $host. The same command follows it again; --stop ends it."; exit 130' INT TERM
}

about=$(look_about) || fail 1 "$host cannot be used"
mapfile -t about <<<"$about"
dir=${about[0]} state=${about[1]} running=${about[2]% } seen=${about[3]}
may_replace # asked before hours of training, not only after

if [[ $stop == yes ]]; then
  [[ -n $running ]] || fail 2 "no study has been run in $dir of $host"
  end
elif [[ $state == running ]]; then
  wanted="${study##*/}${*:+ $*}"
  [[ $running == "$wanted" ]] ||
    fail 2 "harness study run $running is running there. Follow it with these arguments, or end it with --stop"
  goes_on_when_killed
  say "following the study that runs at $host"
else
  [[ -n $harness ]] || install_wheel "$work"
  send
  begin "$@"
  seen=0
  goes_on_when_killed
  say "the study runs at $host in $dir; a broken line does not end it"
fi
code=0
follow "$work" "$seen" || code=$?
if [[ $code == 2 ]]; then fail 2 "the study was refused there"; fi
bring_back
exit "$code"
