# Everything is done through this file; `make` alone prints what there is.

.DEFAULT_GOAL := help
SHELL := /bin/sh

# -trimpath everywhere: builds are the same from any folder, and build, test and
# lint share one cache, which matters for the minutes that the stack's servers
# take to compile.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)

PROGRAMS := api event-router worker sync-schedules migrate tokens
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -X github.com/activity-core/activity-core/internal/lifecycle.Version=$(VERSION)

# Go modules of their own, beside the one here.
MODULES := $(patsubst %/go.mod,%,$(sort $(wildcard deploy/*/go.mod test/*/go.mod)))

# Further flags for go test, for example: make test TESTFLAGS=-v
TESTFLAGS    ?=
TEST_TIMEOUT ?= 40m

# How long `make fuzz` spends on each fuzz target.
FUZZTIME ?= 60s

# The database of `make dev`.
ACTCORE_DB_URL ?= postgres://actcore:actcore@localhost:5433/actcore

.PHONY: help dev dev-reset build test test-faults fuzz lint bench migrate seed fmt generate verify contract sbom verify-build

help: ## print this list
	@echo 'Usage: make TARGET'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

dev: build ## start the whole system on this machine until Ctrl-C; data stays in .dev/
	@bin/devstack dev

dev-reset: bin/devstack ## remove what `make dev` stored
	@bin/devstack reset

build: bin/devstack ## build all programs into bin/
	go build -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

# A file target: built only when its sources changed.
bin/devstack: $(shell find deploy/devstack -type f ! -name '*_test.go') scripts/build-devstack.sh
	@sh scripts/build-devstack.sh

# Goes on after a failure, so that one run shows all of them.
test: build ## run all tests against real servers, started for this run alone
	@status=0; \
	echo '== .'; \
	bin/devstack exec -- go test -race -count=1 -timeout $(TEST_TIMEOUT) $(TESTFLAGS) ./... || status=1; \
	for module in $(MODULES); do \
		echo "== $$module"; \
		(cd $$module && go test -count=1 -timeout $(TEST_TIMEOUT) $(TESTFLAGS) ./...) || status=1; \
	done; \
	exit $$status

test-faults: build ## fault tests that take minutes: outages, kills, and schedules changed behind our back
	@bin/devstack exec -- go test -tags faults -count=1 -timeout 15m $(TESTFLAGS) ./test/faults

fuzz: ## run each fuzz target for FUZZTIME (60s); what fails is kept in testdata/fuzz
	@sh scripts/fuzz.sh $(FUZZTIME)

lint: ## format, vet, golangci-lint, workflowcheck, govulncheck, secrets and licences
	@sh scripts/lint.sh . $(MODULES)

bench: build ## measure, print a line a figure, write .bench/results.json
	@mkdir -p .bench
	@bin/devstack exec --durable -- go run ./bench

migrate: build ## bring the database of ACTCORE_DB_URL (that of `make dev`) to the newest revision
	@ACTCORE_DB_URL='$(ACTCORE_DB_URL)' bin/migrate up

seed: build ## make the example definitions in that database
	@ACTCORE_DB_URL='$(ACTCORE_DB_URL)' bin/migrate seed

fmt: ## format all Go files
	gofmt -l -w .

generate: ## write generated files anew
	go generate ./...
	@sh scripts/supplychain.sh licences docs/licences.md

contract: export BREAKING := $(BREAKING)
contract: ## accept the OpenAPI document as the contract; what breaks it needs BREAKING='reason'
	@cd test/contract && go run . accept "$$BREAKING"

verify: generate ## fail when a generated file differs from the committed one
	git diff --exit-code

sbom: build ## write a bill of materials (CycloneDX) beside each binary in bin/
	@sh scripts/supplychain.sh sbom bin $(PROGRAMS)

verify-build: ## build what is committed in two folders; fail when the binaries differ (FRESH=1: compile twice)
	@sh scripts/supplychain.sh reproducible '$(VERSION)' $(PROGRAMS)
