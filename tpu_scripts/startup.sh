#!/usr/bin/env bash
# Runs on every worker of a pod: brings up the code and trains, at every boot, until the run is finished.
#
# Google's guest agent runs a VM's metadata value `startup-script` as root at every boot
# (https://cloud.google.com/compute/docs/instances/startup-scripts/linux). `pod create` puts this file there, so a pod that
# was preempted and made again, or a slice that Cloud TPU repaired, goes on from the newest checkpoint by itself.
#
#   startup.sh                    install, and start training if it is not running
#   startup.sh setup              install, and check the devices and the run file
#   startup.sh launch [--restart] the same as at a boot; --restart saves and stops a running training first
#   startup.sh stop | state | log LINES
#   startup.sh run                the training itself, started again after whatever can pass
#
# Without a TPU, for tests and to try it out: DOTS_PLATFORM=cpu (the only way around the TPU check),
# DOTS_DISTRIBUTED=ADDRESS:PORT,PROCESS,PROCESSES, DOTS_POD_ENV=FILE, DOTS_ROOT=FOLDER; then it stays in the foreground.
set -euo pipefail

ROOT=${DOTS_ROOT:-/opt/dots}
PLATFORM=${DOTS_PLATFORM:-tpu}
UNIT=dots-train
METADATA=http://metadata.google.internal/computeMetadata/v1/instance/attributes
RETRY_SECONDS=${DOTS_RETRY_SECONDS:-10}  # the first pause after a failure; it doubles up to five minutes
HEALTHY_SECONDS=600                      # a run that lasted so long was no failure to start

say() { echo "$(date -u +%FT%TZ) $(hostname): $*"; }
state() { echo "$(date -u +%FT%TZ) $*" >"$ROOT/state.new" && mv "$ROOT/state.new" "$ROOT/state"; }
die() {
  state "stopped: $*"
  say "error: $*" >&2
  exit 2
}

# try TIMES SECONDS COMMAND...: networks and package servers have bad minutes, and so do machines that just booted.
try() {
  local times=$1 seconds=$2 attempt
  shift 2
  for ((attempt = 1; attempt <= times; attempt++)); do
    "$@" && return 0
    say "attempt $attempt of $times failed: $*" >&2
    ((attempt < times)) && sleep "$seconds"
  done
  return 1
}

# shellcheck disable=SC2329  # `try` calls it
metadata() { curl --silent --show-error --fail --max-time 20 -H 'Metadata-Flavor: Google' "$METADATA/$1"; }

# --- what to do -------------------------------------------------------------------------------------------------------

load_config() {
  mkdir -p "$ROOT"
  if [[ -n ${DOTS_POD_ENV:-} ]]; then
    cp "$DOTS_POD_ENV" "$ROOT/pod.env"
  else
    # The metadata server is also the sign that the network is up.
    try 30 10 metadata dots-pod-env >"$ROOT/pod.env.new" || die "the metadata has no dots-pod-env: was this pod made by tpu_scripts/pod?"
    mv "$ROOT/pod.env.new" "$ROOT/pod.env"
  fi
  sed -i -e $'1s/^\xef\xbb\xbf//' -e $'s/\r$//' "$ROOT/pod.env" # an editor of Windows
  set -a # LIBTPU_INIT_ARGS and the like are for the training's environment
  # shellcheck disable=SC1091
  source "$ROOT/pod.env"
  set +a
  [[ $REPO == /* ]] && SRC=$REPO || SRC=$ROOT/src
  [[ -n ${PYTHON:-} ]] && BIN=$PYTHON || BIN=$ROOT/venv/bin/python
}

# --- installing -------------------------------------------------------------------------------------------------------

install_all() {
  state installing
  install_code
  install_packages
  require_tpu
  state installed
}

install_code() {
  case $REPO in
    /*) say "code: the folder $REPO, as it is" ;;
    gs://*.tar.gz)
      try 20 30 gcloud storage cp "$REPO" "$ROOT/code.tar.gz" || die "the code $REPO cannot be read: is it there, and may the workers' service account read it?"
      rm -rf "$SRC.new" && mkdir "$SRC.new"
      tar -xzf "$ROOT/code.tar.gz" -C "$SRC.new"
      rm -rf "$SRC" && mv "$SRC.new" "$SRC"
      ;;
    *)
      # `pod` pins REVISION to a commit: a branch may move between the first worker's boot and the last one's.
      [[ -d $SRC/.git ]] || git init --quiet "$SRC"
      try 20 30 git -C "$SRC" fetch --quiet --depth=1 "$REPO" "${REVISION:-$BRANCH}" || die "git cannot fetch ${REVISION:-$BRANCH} of $REPO"
      git -C "$SRC" checkout --quiet --force --detach FETCH_HEAD # what git ignores stays: token caches
      say "code: $(git -C "$SRC" log -1 --format='%h %s')"
      ;;
  esac
}

install_packages() {
  if [[ -n ${PYTHON:-} ]]; then
    say "packages: those of $PYTHON"
    return
  fi
  local stamp
  stamp=$(cat "$SRC/requirements.txt" "$SRC/requirements-tpu.txt" <(echo "${WHEELHOUSE:-}") | sha256sum)
  if [[ -x $BIN && $(cat "$ROOT/venv/.installed" 2>/dev/null) == "$stamp" ]]; then
    say "packages: installed before"
    return
  fi
  make_venv
  local from=() wheels=${WHEELHOUSE:-}
  if [[ $wheels == gs://* ]]; then
    mkdir -p "$ROOT/wheels"
    try 20 30 gcloud storage rsync --recursive "$wheels" "$ROOT/wheels" || die "the wheels $wheels cannot be read"
    wheels=$ROOT/wheels
  fi
  [[ -n $wheels ]] && from=(--no-index "--find-links=$wheels")
  say "packages: installing requirements-tpu.txt (some minutes)"
  try 5 60 "$BIN" -m pip install --quiet --disable-pip-version-check "${from[@]}" -r "$SRC/requirements-tpu.txt" ||
    die "pip cannot install requirements-tpu.txt; what it said is above"
  echo "$stamp" >"$ROOT/venv/.installed"
}

make_venv() {
  local python
  rm -rf "$ROOT/venv"
  for python in python3.12 python3.11; do
    if command -v $python >/dev/null && $python -c 'import ensurepip' 2>/dev/null; then
      $python -m venv "$ROOT/venv"
      return
    fi
  done
  # The TPU images are Ubuntu 22.04 with Python 3.10; uv brings a newer one (https://docs.astral.sh/uv, and MaxText's guide).
  say "Python: 3.12, by uv"
  try 3 30 python3 -m pip install --quiet --upgrade --target="$ROOT/uv" uv || die "there is no Python 3.11 or 3.12 here, and uv cannot be installed"
  PYTHONPATH=$ROOT/uv UV_PYTHON_INSTALL_DIR=$ROOT/pythons try 3 30 python3 -m uv venv --quiet --python 3.12 --seed "$ROOT/venv" ||
    die "uv cannot make an environment with Python 3.12"
}

require_tpu() {
  [[ $PLATFORM == tpu ]] || return 0
  # Without chips or without libtpu jax would train on the CPU, thousands of times slower and without a word. That all
  # workers together have the right number of devices is checked by the training itself (--devices), before it compiles.
  compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null || die "this machine has no TPU chips (/dev/accel*, /dev/vfio/*): refusing to train on its CPU"
  "$BIN" -c 'import libtpu' || die "libtpu is not installed in $BIN: refusing to train on the CPU"
}

# --- training ---------------------------------------------------------------------------------------------------------

train_command() {
  local file binding
  COMMAND=("$BIN" -m dots_jax.train)
  for file in "${GIN_FILES[@]}"; do COMMAND+=("--gin_file=$file"); done
  for binding in "${GIN_BINDINGS[@]+"${GIN_BINDINGS[@]}"}"; do COMMAND+=("--gin_bindings=$binding"); done
  COMMAND+=("--workdir=$WORKDIR" "--distributed=${DOTS_DISTRIBUTED:-auto}" "--devices=$PLATFORM:$DEVICES" --exit_codes)
  # jax takes the CPU where it finds no TPU; a list of platforms makes it fail instead. The CPU stays for jax's own use.
  export JAX_PLATFORMS=$PLATFORM
  [[ $PLATFORM == cpu ]] || JAX_PLATFORMS=$PLATFORM,cpu
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$ROOT/compiled}
  ulimit -n "$(ulimit -H -n)"
  cd "$SRC"
}

is_running() {
  local code=0
  if [[ $PLATFORM == tpu ]] && systemctl is-active --quiet $UNIT; then return 0; fi
  # The loop holds this lock as long as it lives, however it dies.
  flock --nonblock --conflict-exit-code 9 "$ROOT/run.lock" true 2>/dev/null || code=$?
  ((code == 9))
}

start() {
  if [[ $PLATFORM != tpu ]]; then
    exec 8>&-
    run
    return
  fi
  # A unit of its own outlives the startup script's, and at a shutdown systemd asks it to stop before it kills: KillMode=mixed
  # sends SIGTERM to the loop below alone, which passes it on and waits for the checkpoint.
  systemctl reset-failed $UNIT 2>/dev/null || true
  systemd-run --quiet --collect --unit=$UNIT --property=KillMode=mixed --property=TimeoutStopSec=600 \
    --setenv=DOTS_ROOT="$ROOT" --setenv=HOME=/root bash "$ROOT/startup.sh" run
  say "training is starting; log: $ROOT/train.log"
}

stop() {
  if ! is_running; then
    say "no training is running"
  elif [[ $PLATFORM == tpu ]]; then
    systemctl stop $UNIT
  else
    kill -TERM "$(cat "$ROOT/run.pid")"
    flock "$ROOT/run.lock" true # until it has saved and gone
  fi
}

run() {
  exec 9>"$ROOT/run.lock"
  flock --timeout 10 9 || { # not --nonblock: who asks whether it is running holds the lock for a moment
    say "training is running already"
    exit 0
  }
  echo $$ >"$ROOT/run.pid"
  if [[ $(stat -c %s "$ROOT/train.log" 2>/dev/null || echo 0) -gt 100000000 ]]; then mv "$ROOT/train.log" "$ROOT/train.log.1"; fi
  # The serial console is what can still be read of a machine that nobody can log in to.
  local console=/dev/null
  [[ $PLATFORM == tpu && -w /dev/ttyS0 ]] && console=/dev/ttyS0
  # The progress bar's carriage returns become lines, for `pod logs` and `pod status`.
  exec > >(
    exec 9>&-
    trap '' TERM INT
    stdbuf -oL tr '\r' '\n' | tee -a "$ROOT/train.log" "$console"
  ) 2>&1
  train_command

  local child='' stopping='' status failures=0 began pause
  trap 'stopping=yes; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' TERM INT
  while true; do
    say "starting: ${COMMAND[*]}"
    state training
    began=$SECONDS
    "${COMMAND[@]}" 9>&- &
    child=$!
    [[ -z $stopping ]] || kill -TERM "$child" # it came while there was no child yet
    status=0
    wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the training
      status=0
      wait "$child" || status=$?
    done
    child=''

    # What the statuses mean: dots_jax.train --exit_codes.
    if [[ -n $stopping ]]; then
      state "stopped: asked to, exit status $status"
      say "asked to stop; exit status $status"
      exit 0
    elif ((status == 0)); then
      state finished
      say "the run is finished"
      exit 0
    elif ((status == 2)); then
      die "exit status 2: starting it again would not help; the last line above says what to fix; then run: pod launch"
    elif ((status == 75)); then # another worker got SIGTERM; all saved together. Wait for the others at the next start.
      failures=0
      pause=$RETRY_SECONDS
    else
      ((SECONDS - began < HEALTHY_SECONDS)) || failures=0
      failures=$((failures + 1))
      ((failures <= ${MAX_FAILURES:-20})) || die "failed ${MAX_FAILURES:-20} times in a row, the last time with exit status $status"
      pause=$((RETRY_SECONDS * (1 << (failures < 6 ? failures - 1 : 5))))
      ((pause <= 300)) || pause=300
    fi
    state "waiting $pause s after exit status $status, failure $failures"
    say "exit status $status; starting again in $pause s"
    sleep "$pause" 9>&- & # in the background, so that a signal is heard at once
    wait $! || true
    if [[ -n $stopping ]]; then
      state 'stopped: asked to'
      exit 0
    fi
  done
}

check() {
  train_command
  "${COMMAND[@]}" --dry_run
  say "setup is complete: $DEVICES $PLATFORM devices, and the run file is sound"
}

# One line for `pod status`.
show_state() {
  local line
  line=$(cat "$ROOT/state" 2>/dev/null || echo 'no state: the startup script has not run yet')
  if [[ $line == *Z\ training || $line == *Z\ waiting* ]] && ! is_running; then
    line="dead: nothing is running, though the last state was: $line"
  fi
  echo "$line | $(tail -c 1000 "$ROOT/train.log" 2>/dev/null | grep . | tail -n 1 | cut -c 1-160)"
}

main() {
  mkdir -p "$ROOT"
  case ${1:-boot} in
    boot | launch | setup)
      # One at a time: `pod launch` may come while the machine is still booting.
      exec 8>"$ROOT/install.lock"
      flock 8
      load_config
      if [[ ! ${BASH_SOURCE[0]} -ef $ROOT/startup.sh ]]; then cp "${BASH_SOURCE[0]}" "$ROOT/startup.sh"; fi
      if is_running && [[ ${2:-} == --restart ]]; then
        stop # before the code changes under it
      elif is_running; then
        say "training is running and left alone; launch --restart stops it, with a checkpoint, and starts it again"
        exit 0
      fi
      install_all
      if [[ ${1:-} == setup ]]; then check; else start; fi
      ;;
    run)
      load_config
      run
      ;;
    stop) stop ;;
    state) show_state ;;
    log) tail -n "${2:-20}" -F "$ROOT/train.log" | sed -u "s/^/[$(hostname)] /" ;;
    *)
      echo "error: startup.sh has no command $1" >&2
      exit 2
      ;;
  esac
}

# In braces: bash has read all of this before it begins, and `pod launch` may replace this file while it runs.
{
  main "$@"
  exit
}
