#!/bin/sh
# Runs each fuzz target of this module whose name matches the pattern (default: all) for the time given, such as 60s; go test
# fuzzes one target at a time.
# Goes on after a failure, so that one run shows all of them.
set -u
cd "$(dirname "$0")/.."
duration=${1:?usage: fuzz.sh TIME [PATTERN]}
pattern=${2:-^Fuzz}
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

for dir in $(grep -rl '^func Fuzz' --include='*_test.go' cmd internal | xargs -n 1 dirname | sort -u); do
	list=$(go test -list "$pattern" "./$dir") || { echo "$list"; status=1; continue; }
	for target in $(echo "$list" | grep '^Fuzz'); do
		echo "== $dir $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$duration" "./$dir" >"$log" 2>&1
		code=$?
		# The progress lines but the last are of no use afterwards.
		grep -v '^fuzz: elapsed' "$log"
		grep '^fuzz: elapsed' "$log" | tail -n 1
		[ $code -eq 0 ] && continue
		# Before Go 1.27, the end of the time may look like a failure (golang/go#75804). A real one writes its input down.
		if grep -q '^    context deadline exceeded$' "$log" && ! grep -q 'Failing input written' "$log"; then
			echo "the time was up, and nothing had failed"
			continue
		fi
		status=1
	done
done
exit $status
