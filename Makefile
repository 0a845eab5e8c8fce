# make        builds build/hob
# make demo   shows hob at work, from images to calls, and cleans up
# make test   passes all tests: as root on Linux everything, else what needs no root
# make bench  measures calls against docker, runc, crun and nginx where they are installed
# make soak   calls functions of every kind for SOAK=10m and looks whether anything grows
# make runsc  builds gVisor's runsc into RUNSC=/usr/local/bin/runsc
# make lint   gofmt, go vet for both processors, staticcheck
# make build-all, fuzz, clean

GO      ?= go
# "hob version" tells the tag or commit, which go takes from git where it can.
STAMP   := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
FLAGS    = -trimpath -buildvcs=$(STAMP) -ldflags '-s -w'
FUZZTIME ?= 20s
SOAK     ?= 10m
RUNSC    ?= /usr/local/bin/runsc

# The race detector needs a C compiler; hob itself has no C in it.
RACE := $(shell command -v $${CC:-gcc} >/dev/null 2>&1 && echo -race)

export CGO_ENABLED = 0

.PHONY: build build-all demo test bench soak runsc lint fuzz clean

build:
	$(GO) build $(FLAGS) -o build/hob ./cmd/hob

build-all:
	GOOS=linux GOARCH=amd64 $(GO) build $(FLAGS) -o build/hob-linux-amd64 ./cmd/hob
	GOOS=linux GOARCH=arm64 $(GO) build $(FLAGS) -o build/hob-linux-arm64 ./cmd/hob

demo: build
	HOB=$(CURDIR)/build/hob scripts/demo.sh

# A test says why it skips; HOB_TEST_MUST_RUN=1 makes that a failure. Programs
# that tests start end at once, not a second later as the race detector has it.
test:
ifeq ($(RACE),)
	@echo "no C compiler: the tests run without the race detector"
endif
	CGO_ENABLED=$(if $(RACE),1,0) GORACE=atexit_sleep_ms=0 $(GO) test $(RACE) -timeout 20m $(TESTFLAGS) ./...

bench: build
	build/hob bench
	$(GO) test ./internal/sandbox/ns -run '^$$' -bench Neighbour -benchtime 9x
	$(GO) test ./internal/store/sqlite ./internal/logs -run '^$$' -bench 'Accept|Backlog|FullLog' -benchtime 1s

soak: build
	build/hob bench --only soak --soak $(SOAK)

# A module of its own: hob runs the program and uses nothing of its packages. It must
# not lie below a directory that others can write to, as /tmp.
runsc:
	cd tools/runsc && $(GO) build -trimpath -o $(RUNSC) \
		-ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$$($(GO) list -m -f '{{.Version}}' gvisor.dev/gvisor)" gvisor.dev/gvisor/runsc
	$(RUNSC) --version

lint:
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) tool staticcheck ./...
	@for example in examples/*/go.mod examples/*/*/go.mod; do (cd "$$(dirname "$$example")" && $(GO) vet ./...) || exit 1; done
	@for script in .ci/run scripts/*.sh; do bash -n "$$script" || exit 1; done

# Every fuzz target for a while; their committed seeds run in every make test.
fuzz:
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
		grep -oE '^func Fuzz[A-Za-z0-9_]*' "$$file" | cut -c6- | while read -r name; do \
			echo "$$name in $$(dirname "$$file")"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" || exit 1; \
		done || exit 1; done

clean:
	rm -rf build dist
