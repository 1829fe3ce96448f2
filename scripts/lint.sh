#!/bin/sh
# Runs every check on the modules given as arguments, the root module first, and
# goes on after a failure. The tools are pinned in tools/go.mod and
# tools/supplychain/go.mod.
set -eu

cd "$(dirname "$0")/.."
root=$PWD
failed=

tool() { go tool -modfile="$root/tools/go.mod" "$@"; }

# check NAME COMMAND...: runs the command and remembers whether it failed.
check() {
	name=$1
	shift
	if "$@"; then
		echo "lint: $name: ok"
	else
		echo "lint: $name: FAILED" >&2
		failed="$failed
  $name"
	fi
}

formatted() {
	files=$(gofmt -l .)
	[ -z "$files" ] && return
	echo "not formatted (run \`make fmt\`):"
	echo "$files"
	return 1
}

in_module() (
	cd "$1"
	shift
	"$@"
)

vulnerabilities() {
	out=$(tool govulncheck ./... 2>&1) && return
	code=$?
	# 3 is a finding. Without the database nothing can be found: say so, and let
	# a machine without a network pass.
	if [ "$code" -ne 3 ] && echo "$out" | grep -q 'vuln\.go\.dev'; then
		echo "govulncheck: database not reachable, skipped"
		return
	fi
	echo "$out"
	return 1
}

echo "lint: preparing the tools; the first time compiles them, which takes a few minutes"
for name in golangci-lint govulncheck workflowcheck; do
	tool -n "$name" >/dev/null
done
for name in gitleaks go-licence-detector; do
	go tool -modfile="$root/tools/supplychain/go.mod" -n "$name" >/dev/null
done

check "gofmt" formatted
for module in "$@"; do
	# With the tags, so that no file is left out but the empty twin of internal/failpoint.
	check "go vet ($module)" in_module "$module" go vet -tags faults,failpoint ./...
	check "golangci-lint ($module)" in_module "$module" tool golangci-lint run --allow-serial-runners --config "$root/.golangci.yml" ./...
	check "govulncheck ($module)" in_module "$module" vulnerabilities
done
licences() (
	found=$(mktemp)
	trap 'rm -f "$found"' EXIT
	sh scripts/supplychain.sh licences "$found" || return
	diff -u docs/licences.md "$found" && return
	echo "docs/licences.md does not say what the binaries hold: run \`make generate\`"
	return 1
)

# docs/security.md names the tests that try what it says.
named_tests() {
	missing=
	for test in $(grep -oE '`(Test|Fuzz)[A-Za-z]+`' docs/security.md | tr -d '`' | sort -u); do
		grep -rqE "^func $test\(" --include='*_test.go' . || missing="$missing $test"
	done
	[ -z "$missing" ] && return
	echo "docs/security.md names tests that are not there:$missing"
	return 1
}

check "tests that docs/security.md names" named_tests
check "secrets" sh scripts/supplychain.sh secrets
check "licences" licences
check "workflowcheck" tool workflowcheck -config .workflowcheck.yml ./internal/execution/...

if [ -n "$failed" ]; then
	echo "lint: these checks failed:$failed" >&2
	exit 1
fi
