#!/bin/sh
# Looks at what the repository and the binaries hold. The tools are pinned in
# tools/supplychain/go.mod.
#
#   secrets                 fail when a file, or any commit, holds a secret
#   licences FILE           write the licences of what the binaries link; fail
#                           for one that is not allowed
#   sbom FOLDER PROGRAM...  write a bill of materials beside each binary
#   reproducible VERSION PROGRAM...
#                           fail when two builds of the committed state, in
#                           different folders, differ. With FRESH=1 the second
#                           one compiles everything anew, which takes minutes.
set -eu

cd "$(dirname "$0")/.."
root=$PWD
pinned=$root/tools/supplychain

tool() { go tool -modfile="$pinned/go.mod" "$@"; }

leaks() { tool gitleaks "$@" --config "$pinned/gitleaks.toml" --no-banner --redact --log-level error --verbose; }

secrets() {
	# A scanner that finds nothing anywhere would pass, too: it has to find a
	# token that is planted. It is put together here, or it would be found here.
	planted=$(mktemp -d)
	trap 'rm -rf "$planted"' EXIT
	trap 'exit 1' INT TERM
	echo "token = actcore_$(printf 'k7Qm2Xv9Rb4Tn8Wd1Zs6Hc3Jf5Lg0P''yAeUiO')" >"$planted/config.txt"
	if leaks dir "$planted" >"$planted/found"; then
		echo "a planted token was not found: tools/supplychain/gitleaks.toml does not work" >&2
		return 1
	fi
	grep -q activity-core-token "$planted/found" || { cat "$planted/found" >&2; return 1; }
	leaks dir .
	# The history, where there is one: what was committed once is known to others.
	[ ! -e .git ] || leaks git .
}

licences() {
	modules=$(go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}' ./cmd/... | sort -u)
	# One word a module: paths hold no spaces.
	# shellcheck disable=SC2086
	go list -m -json $modules | tool go-licence-detector -includeIndirect -rules "$pinned/licences.json" \
		-overrides "$pinned/licence-overrides.ndjson" -depsTemplate "$pinned/licences.md.tmpl" -depsOut "$1"
}

sbom() {
	folder=$1
	shift
	for program in "$@"; do
		tool cyclonedx-gomod bin -json -std -output "$folder/$program.cdx.json" "$folder/$program"
	done
}

# With the flags of deploy/Dockerfile: those are the binaries that are shipped.
release() (
	cd "$1"
	version=$2
	shift 2
	CGO_ENABLED=0 go build -trimpath -tags timetzdata \
		-ldflags "-s -w -X github.com/activity-core/activity-core/internal/lifecycle.Version=$version" -o out/ "$@"
)

reproducible() {
	version=$1
	shift
	builds=$(mktemp -d)
	trap 'rm -rf "$builds"' EXIT
	trap 'exit 1' INT TERM
	one=$builds/one two=$builds/a/much/deeper/two
	for folder in "$one" "$two"; do
		git clone --quiet --shared . "$folder"
	done
	packages=$(printf './cmd/%s ' "$@")
	# shellcheck disable=SC2086
	release "$one" "$version" $packages
	[ -z "${FRESH:-}" ] || export GOCACHE="$builds/cache"
	# shellcheck disable=SC2086
	release "$two" "$version" $packages
	for program in "$@"; do
		if ! cmp "$one/out/$program" "$two/out/$program"; then
			echo "two builds of $program differ: compare \`go version -m\` of both, and look for a path or a time" >&2
			return 1
		fi
		echo "$(sha256sum <"$one/out/$program" | cut -c1-64)  $program"
	done
}

"$@"
