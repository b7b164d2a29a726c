# shellcheck shell=bash
# What every script here shares: where results are kept, how progress is told,
# how a Debian package is had, and how one pinned Go program becomes a file.

shopt -s inherit_errexit # a failure inside $(...) is a failure

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${GETH_PEERING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/geth-peering}
minor=${KUBERNETES:-1.34} # which pins/<minor> to use
# shellcheck disable=SC2034 # for the scripts that read this file
cluster=${GETH_PEERING_CLUSTER:-geth-peering} # kind's name of the one that `make` uses
mkdir -p "$cache"

say() { echo "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# kubeconfig CLUSTER: where that cluster's kubeconfig is, or will be.
kubeconfig() { echo "$cache/clusters/$1.kubeconfig"; }

# beating COMMAND...: run COMMAND, and say every 15 s that it still runs.
beating() {
  if [[ ${GETH_PEERING_BEATING:-} ]]; then
    "$@" # inside another one
    return
  fi
  local start=$SECONDS beat status=0
  # The loop must not outlive this shell, and its sleep must hold no pipe and no lock.
  while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
    say "  ... $((SECONDS - start)) s so far"
  done >/dev/null 9>&- &
  beat=$!
  GETH_PEERING_BEATING=1 "$@" || status=$?
  kill "$beat" 2>/dev/null || true
  wait "$beat" 2>/dev/null || true
  return "$status"
}

# quietly WHAT COMMAND...: run COMMAND as a step that may take long: a line when
# it starts and one when it ends; what it says itself goes to a file, and is
# shown if it fails.
quietly() {
  local what=$1 start=$SECONDS log
  shift
  mkdir -p "$cache/logs"
  log=$cache/logs/${what//[^A-Za-z0-9.]/-}.log
  say "$what ..."
  if ! beating logged "$log" "$@"; then
    tail -n 20 "$log" >&2
    die "$what failed, see $log"
  fi
  say "$what: $((SECONDS - start)) s"
}
logged() { "${@:2}" >"$1" 2>&1; }

# alone NAME: wait until no other script here is doing NAME, and keep others from it
# until this one ends.  (Descriptor 9; what outlives the script must close it.)
alone() {
  exec 9>"$cache/$1.lock"
  if ! flock -n 9; then
    say "waiting for another make that is at work on the $1 ..."
    flock 9
  fi
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }

# apt_install PACKAGE...: install Debian packages.
apt_install() {
  [[ $EUID == 0 ]] || die "please install $* (or run this as root, which does it)"
  command -v apt-get >/dev/null || die "please install $*: there is no apt-get here to do it with"
  quietly "apt-get update" apt_get update
  quietly "apt-get install $*" apt_get install -y --no-install-recommends "$@"
}

# apt_lists: have apt know Debian's packages; on a new machine it knows none.
apt_lists() {
  if [[ $EUID == 0 ]] && command -v apt-get >/dev/null && ! apt-cache show busybox-static >/dev/null 2>&1; then
    quietly "apt-get update" apt_get update
  fi
}

# need PROGRAM [PACKAGE]: see to it that PROGRAM is on the PATH.
need() { command -v "$1" >/dev/null || apt_install "${2:-$1}"; }

# fingerprint FILE...: a short hash of the files' contents, to name what is made of them.
fingerprint() { cat "$@" | sha256sum | cut -c1-12; }

# pinned SET: the version of SET in pins/versions.
pinned() { awk -v set="$1" '$1 == set { print $3 }' "$here/pins/versions"; }

# module SET: the folder with the source of SET's module.
module() {
  local name
  name=$(awk -v set="$1" '$1 == set { print $2 }' "$here/pins/versions")
  (cd "$here/pins/$1" && go mod download "$name" && go list -m -f '{{.Dir}}' "$name")
}

# program SET NAME: the path of NAME, built from pins/SET unless it is there already.
program() {
  local set=$1 name=$2 version with_c=0 tags='' flags='-s -w' path dir
  version=$(pinned "$set")
  if [[ $set == */kubernetes ]]; then
    # Kubernetes learns its version from the linker, and kubeadm insists on one.
    for path in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
      flags+=" -X $path.gitVersion=$version -X $path.gitMajor=1 -X $path.gitMinor=${minor#1.} -X $path.gitTreeState=clean"
    done
  elif [[ $set == geth ]]; then
    # With C, as in the published image: elliptic curves in Go make each handshake several times as dear.
    # Tags and linker flags are those of its static builds (build/ci.go).
    with_c=1 tags=urfave_cli_no_docs,ckzg,osusergo,netgo
    flags+=' -linkmode external -extldflags "-static -Wl,-z,stack-size=0x800000"'
  elif [[ $set == geth-clique ]]; then
    # It reaches for the runtime's own clock, which Go's linker has refused since 1.23; its C no longer compiles.
    flags+=' -checklinkname=0'
  fi
  dir=$cache/programs/${set//\//-}-$version-$(fingerprint "$here/pins/$set/go.sum" - <<<"$flags${tags:+ $tags $with_c}")
  if [[ ! -x $dir/$name ]]; then
    command -v go >/dev/null || die "Go is needed to build $name: please install it"
    mkdir -p "$dir"
    CGO_ENABLED=$with_c quietly "building $name $version" \
      build "$here/pins/$set" "$name" "$dir/.$name.$$" -tags "$tags" -ldflags "$flags"
    mv "$dir/.$name.$$" "$dir/$name"
  fi
  echo "$dir/$name"
}

# build MODULE NAME OUT FLAG...: build the tool NAME of a module of pins/.
build() {
  local package
  package=$(go list -C "$1" tool | grep -E "(^|/)$2(/v[0-9]+)?\$") &&
    go build -C "$1" -trimpath -o "$3" "${@:4}" "$package"
}

# static_programs: build the sidecar and the injector as they are in the images, and print the folder they are in.
# Naming the target keeps the flags from build scripts and procedural macros, which cannot be static.
static_programs() {
  local triple flags='-C target-feature=+crt-static' oldest
  triple=$(rustc --print host-tuple)
  # Packed, relocations take next to no room.  A static program unpacks them by itself, with glibc 2.36 and newer.
  oldest=$(printf '%s\n' 2.36 "$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)" | sort -V | head -1)
  [[ $oldest != 2.36 ]] || flags+=' -C link-arg=-Wl,-z,pack-relative-relocs'
  RUSTFLAGS=$flags cargo build --release --target "$triple" --bin sidecar --bin injector >&2
  echo "${CARGO_TARGET_DIR:-target}/$triple/release"
}
