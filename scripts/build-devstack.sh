#!/bin/sh
# Builds bin/devstack and shows how far it is: the Temporal server is some two
# thousand packages, and a build that says nothing for minutes looks broken.
set -eu

cd "$(dirname "$0")/.."
mkdir -p bin
out=$PWD/bin/devstack
log=$(mktemp "${TMPDIR:-/tmp}/devstack-build.XXXXXX")
build=
cleanup() {
	[ -z "$build" ] || kill "$build" 2>/dev/null || :
	rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -e "$out" ]; then
	echo "Building bin/devstack. The first build on a machine compiles the Temporal server:"
	echo "several minutes with two cores. Later builds take seconds."
fi

cd deploy/devstack
# Fetches the modules first, when they are not here yet.
total=$(($(go list -deps . | wc -l)))

# -v prints a line for each package that is not in the build cache yet.
go build -trimpath -ldflags='-s -w' -v -o "$out" . 2>"$log" &
build=$!

compiled() { echo $(($(grep -c '^[^# ][^ ]*$' "$log" || :))); }
begin=$(date +%s)
elapsed() { echo $(($(date +%s) - begin)); }

said=0
while kill -0 "$build" 2>/dev/null; do
	sleep 1
	count=$(compiled)
	[ "$count" -gt 0 ] || continue
	seconds=$(elapsed)
	line=$(printf 'compiled %d of %d packages, %d:%02d min' "$count" "$total" $((seconds / 60)) $((seconds % 60)))
	if [ -t 1 ]; then
		printf '\r%s ' "$line"
		said=1
	elif [ $((seconds - said)) -ge 15 ]; then
		echo "$line"
		said=$seconds
	fi
done
if [ -t 1 ] && [ "$said" -gt 0 ]; then
	echo
fi

if ! wait "$build"; then
	build=
	# What is not a package name is an error.
	grep -v '^[^# ][^ ]*$' "$log" >&2 || :
	echo "bin/devstack was not built: see the errors above" >&2
	exit 1
fi
build=
touch "$out" # go build leaves the file alone when nothing changed; make looks at its time
echo "built bin/devstack in $(elapsed) s"
