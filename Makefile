# Everything here can be run on a fresh Debian machine as root; `make` alone lists what there is.

# Which criu: a version, fetched into $(TARGET)/criu-VERSION, or the path of one that is installed.
CRIU_VERSION ?= 4.1.1
CRIU         ?= $(CRIU_VERSION)
# Where everything is built.
TARGET       := $(or $(CARGO_TARGET_DIR),target)
# debug builds faster and checks arithmetic; the bench is for release.
PROFILE      := debug
# What `make test` hands to the tests, say a part of a name.
ARGS         :=
# Besides the one that is built against: what `make versions` runs.
VERSIONS     := 4.2 4.3
# How often `make versions` runs each gap case in each way; `make gaps` has a number for each.
REPEATS      := 5
# Where `make install` installs: the command and its papers, the settings, and the plugin (nothing: asks criu).
PREFIX       := /usr/local
SYSCONFDIR   := /etc
PLUGINDIR    :=
# Goes before all of these.
DESTDIR      :=

# For `make book`. Built without optimisation, and without its server, search and watching, which the book does not need: 211 s of
# processor time rather than 383 s.
MDBOOK_VERSION := 0.5.4

# For `make semver`: the commit with which is compared. cargo-semver-checks 0.51 needs Rust 1.93; it is built as mdbook is.
REV            := HEAD
SEMVER_VERSION := 0.51.0

# For `make mutants`. Built as mdbook is.
MUTANTS_VERSION := 27.1.0

# What `make lint` lets cargo-deny check. With "advisories" cargo-deny fetches the database of RustSec.
DENY         := bans licenses sources

# For `make bench`: a folder for figures. Those of the first run are kept there, and those of later runs compared with them.
BASELINE     :=
# A document into which `make bench` writes its first table, as README.md.
DOCUMENT     :=

# For `make kernels`: the architecture (x86_64, aarch64); kernels of Debian's; a selection of tests (full, ci). ARGS is a part of a
# test's name.
ARCH         := x86_64
KERNELS       = $(if $(filter x86_64,$(ARCH)),6.1 6.12 7.2,7.2)
SELECTION    := full

# For `make zdtm`: CRIU's source tree; names or patterns of tests, or all; flavours (h,ns,uns); tests at a time.
CRIU_SRC     :=
TESTS        :=
FLAVOUR      := h
JOBS         := 2

# CI builds what Cargo.lock says, or not at all.
locked      := $(if $(CI), --locked)
here        := $(CURDIR)
target_path := $(if $(filter /%,$(TARGET)),$(TARGET),$(here)/$(TARGET))
# CRIU loads every .so of the folder it is given, so nothing else may be in it.
plugins      = plugins$(if $(filter debug,$(PROFILE)),,-$(PROFILE))
profile_flag = $(if $(filter debug,$(PROFILE)),, --profile $(PROFILE))
# build.rs looks into target/criu/include by itself.
headers      = $(if $(filter target,$(TARGET)),,CRIU_INCLUDE_DIR="$(or $(CRIU_INCLUDE_DIR),$(target_path)/criu/include)" )
cargo        = $(headers)cargo
# Builds in which tests can make the work fail (src/fault.rs).
faults       = faults$(if $(filter debug,$(PROFILE)),,-$(PROFILE))
with_criu    = CRIU="$(target_path)/criu/criu" CRIU_SIGNALS_PLUGIN_DIR="$(target_path)/$(plugins)" \
               CRIU_SIGNALS_FAULTS_DIR="$(target_path)/$(faults)" $(cargo)
cargo_test   = $(with_criu) test --workspace$(locked)$(profile_flag)
test_args    = $(if $(ARGS), -- $(ARGS))

oldest_rust  = $(shell sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help deps criu build faults demo test gaps chance curve budget bench fuzz mutants kills kernels aarch64 zdtm patched versions install uninstall deb rpm static package semver book msrv tools lint clean root source

help: ## prints this list
	@echo "make TARGET [CRIU=4.2.1 | CRIU=/path/to/criu]"
	@sed -n 's/^\([a-z0-9]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 10

deps: ## installs missing packages for the build and the tests (not Rust)
	@scripts/install-deps

criu: ## gets a criu with its headers, and makes target/criu a link to it
	@scripts/use-criu "$(CRIU)" "$(TARGET)"

.PHONY: host
export CRIU_TESTS_HOST := $(target_path)/host
host: deps ## gets runc, crun and podman of the Debian that carries that criu, for the tests of containers
	@scripts/use-host "$(CRIU)" "$(TARGET)"
test: host

build: deps criu ## builds all, and puts the plugin alone into target/plugins
	$(cargo) build --workspace$(locked)$(profile_flag)
	@scripts/place-plugin "$(TARGET)/$(PROFILE)/libsignals_plugin.so" "$(TARGET)/$(plugins)"

# Before the build that people use, whose files take the place of these.
faults: deps criu ## builds the plugin and the command with fault points, for the tests
	$(cargo) build -p criu-signals -p signals-plugin --features criu-signals/faults,signals-plugin/faults$(locked)$(profile_flag)
	@scripts/place-plugin "$(TARGET)/$(PROFILE)/libsignals_plugin.so" "$(TARGET)/$(faults)/plugins"
	@cp -- "$(TARGET)/$(PROFILE)/criu-signals" "$(TARGET)/$(faults)/"

demo: root build ## dumps and restores a small program with the plugin, and shows its signal state before and after
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin demo

test: root faults build ## runs all tests: units, documentation, then the scenarios with a real criu (ARGS=name for some)
	$(with_criu) build -p criu-signals --examples$(locked)$(profile_flag)
	$(cargo_test) --lib --bins --examples$(test_args)
	$(cargo_test) --doc$(test_args)
	$(cargo_test) --no-fail-fast --test '*'$(test_args)

gaps: PROFILE := release
gaps: root build ## runs every case that CRIU loses, refuses or doubles, and writes docs/gaps.md and docs/gaps.json (ARGS="--case 9" for some)
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin gaps -- $(or $(ARGS),--markdown docs/gaps.md --json docs/gaps.json)

chance: PROFILE := release
chance: root faults build ## runs programs in random states, some hundred seeds, against their own control (ARGS="--seeds 0..20000"; docs/chance.md)
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin chance -- $(ARGS)

curve: PROFILE := release
curve: root build ## measures what deep queues cost, alone and with the plugin, and draws it (some minutes; docs/deep-queues.md)
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin curve -- \
	  $(or $(ARGS),--markdown docs/deep-queues.md --svg docs/deep-queues.svg)

budget: root build ## counts what the plugin asks the kernel for during a dump, whatever else the machine does (strace; docs/budget.md)
	@scripts/budget "$(target_path)/criu/criu" "$(target_path)/$(plugins)"

bench: PROFILE := release
bench: root build host ## measures what the plugin adds to a dump and to a restore, of containers and real programs too, and how long live processes stand still
	@CRIU_TESTS_BASELINE="$(abspath $(BASELINE))" CRIU_TESTS_DOCUMENT="$(abspath $(DOCUMENT))" \
	  $(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin bench
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin bench-live
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin bench-programs
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin bench-containers

# From the packages' own files, as others get them. Nothing is uploaded. cargo 1.90 or newer publishes several packages at once.
package: deps criu ## makes the packages for crates.io, of the image crate and of the library with the SDK, and builds them (VERIFY=no does not)
	CRIU_INCLUDE_DIR="$(or $(CRIU_INCLUDE_DIR),$(target_path)/criu/include)" cargo publish --dry-run --allow-dirty$(locked) \
	  --target-dir "$(target_path)" $(if $(filter no,$(VERIFY)),--no-verify )-p criu-signals-images -p criu-signals
	$(if $(filter no,$(VERIFY)),,@scripts/docs-rs "$(target_path)")

# With what docs.rs documents: the features of the tests and of the command are no interface.
semver: deps criu semver-checks ## compares the public interface of the image crate and of the library with a commit's, by cargo's rules (REV=HEAD)
	@status=0; $(semver) -p criu-signals-images || status=1; \
	$(semver) -p criu-signals --only-explicit-features --features archives,bpf,cores,symbols || status=1; exit $$status

semver = CRIU_INCLUDE_DIR="$(or $(CRIU_INCLUDE_DIR),$(target_path)/criu/include)" \
  "$(target_path)/tools/bin/cargo-semver-checks" semver-checks --baseline-rev "$(REV)"

.PHONY: semver-checks
semver-checks:
	@[ "$$("$(target_path)/tools/bin/cargo-semver-checks" semver-checks --version 2>/dev/null)" = "cargo-semver-checks $(SEMVER_VERSION)" ] || \
	  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --version $(SEMVER_VERSION) --root "$(target_path)/tools" cargo-semver-checks

.PHONY: smoke
smoke: root build ## three rounds of bench, with the plugin as it is released; fails where criu takes more than twice as long with it
	$(cargo) build -p signals-plugin$(locked) --profile release
	@scripts/place-plugin "$(TARGET)/release/libsignals_plugin.so" "$(TARGET)/plugins-release"
	@CRIU="$(target_path)/criu/criu" CRIU_SIGNALS_PLUGIN_DIR="$(target_path)/plugins-release" \
	  $(cargo) run --quiet$(locked)$(profile_flag) -p criu-tests --bin bench -- 3

zdtm: source root build ## runs CRIU's own test suite without and with the plugin, and compares (CRIU_SRC=dir TESTS="sig*")
	@scripts/install-deps zdtm
	@$(with_criu) run --quiet$(locked)$(profile_flag) -p criu-tests --bin zdtm -- \
	  --tree "$(CRIU_SRC)" --flavour "$(FLAVOUR)" --jobs "$(JOBS)" -- $(foreach test,$(TESTS),'$(test)')

patched: source ## builds CRIU_SRC with the patches of docs/upstream, in target/patched-criu, for tests of pre-dumps
	@scripts/install-deps zdtm
	@scripts/patched-criu "$(CRIU_SRC)" "$(target_path)/patched-criu"

fuzz: ## fuzzes every decoder of untrusted input, each target for TIME seconds (60; TARGETS="proc names" for some)
	@scripts/fuzz "$(target_path)" "$(or $(TIME),60)" $(TARGETS)

mutants: deps criu cargo-mutants ## changes code that touches no process, one place at a time, and lists what no unit test notices (FILES="images/src/diff.rs" for some)
	@CRIU_INCLUDE_DIR="$(or $(CRIU_INCLUDE_DIR),$(target_path)/criu/include)" CARGO_PROFILE_TEST_DEBUG=0 \
	  scripts/mutants "$(target_path)/tools/bin/cargo-mutants" "$(target_path)/mutants" $(FILES)

.PHONY: cargo-mutants
cargo-mutants:
	@[ "$$("$(target_path)/tools/bin/cargo-mutants" mutants --version 2>/dev/null)" = "cargo-mutants $(MUTANTS_VERSION)" ] || \
	  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --version $(MUTANTS_VERSION) --root "$(target_path)/tools" cargo-mutants

kills: root faults build ## kills criu, tracers, helper processes and the mount's server at random instants, N (1000) times in each way (N/5 with a dump each)
	@rm -f -- "$(target_path)/criu-tests/kills.txt"
	KILLS="$(or $(N),1000)" $(with_criu) test -p criu-tests$(locked)$(profile_flag) --test kills --test live --test mount_attacks \
	  -- killed
	@cat "$(target_path)/criu-tests/kills.txt"

versions: root host faults build ## runs tests and gap cases with every version of criu, with the one plugin, and writes docs/versions.md
	$(with_criu) build -p criu-signals --examples$(locked)$(profile_flag)
	@$(headers)scripts/versions "$(TARGET)" --gaps $(REPEATS) --table docs/versions.md $(VERSIONS)
	$(with_criu) test -p criu-tests$(locked)$(profile_flag) --test across

kernels: root $(if $(filter aarch64,$(ARCH)),crossed,faults build) ## runs tests, gap cases and random states under other kernels in an emulator, and writes docs/kernels.md (KERNELS="6.1 7.2" SELECTION=ci ARCH=aarch64)
	@scripts/install-deps kernels "$(ARCH)"
	@$(headers)scripts/kernels "$(TARGET)" --arch "$(ARCH)" --selection "$(SELECTION)"$(if $(ARGS), --args "$(ARGS)")$(if \
	  $(ARGS)$(CI),, --table docs/kernels.md) $(KERNELS)

cross = scripts/cross-cargo "$(TARGET)/cross" "$(TARGET)/criu/include"
crossed_to = $(TARGET)/cross/target/aarch64-unknown-linux-gnu/debug

# Before the build that people use, as for x86_64.
.PHONY: crossed
crossed: deps criu
	@scripts/get-cross "$(TARGET)/cross"
	$(cross) build -p criu-signals -p signals-plugin --features criu-signals/faults,signals-plugin/faults$(locked)
	@scripts/place-plugin "$(crossed_to)/libsignals_plugin.so" "$(TARGET)/cross/faults/plugins"
	@cp -- "$(crossed_to)/criu-signals" "$(TARGET)/cross/faults/"
	$(cross) build -p criu-signals -p signals-plugin -p criu-tests$(locked)
	@scripts/place-plugin "$(crossed_to)/libsignals_plugin.so" "$(TARGET)/cross/plugins"

aarch64: criu ## builds the plugin and the command for aarch64 on x86_64, in target/cross, and runs unit tests by qemu-user
	@scripts/install-deps aarch64
	@scripts/get-cross "$(TARGET)/cross"
	$(cross) build -p criu-signals -p signals-plugin$(locked)
	$(cross) test -p criu-signals-images --lib$(locked)
	$(cross) test -p criu-signals --lib$(locked) -- arch::

install: PROFILE := release
install: deps criu ## installs the plugin where the installed criu looks for it, the command, settings (PREFIX, DESTDIR, PLUGINDIR)
	$(cargo) build -p signals-plugin -p criu-signals$(locked)$(profile_flag)
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" PLUGINDIR="$(PLUGINDIR)" SYSCONFDIR="$(SYSCONFDIR)" scripts/install install \
	  "$(target_path)/$(PROFILE)/libsignals_plugin.so" "$(target_path)/$(PROFILE)/criu-signals"

uninstall: ## removes the installed files (PREFIX, DESTDIR as for install)
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" SYSCONFDIR="$(SYSCONFDIR)" scripts/install uninstall

deb: PROFILE := release
deb: deps criu ## makes the Debian packages criu-signals and criu-signals-plugin, in target/
	@scripts/install-deps deb
	$(cargo) build -p signals-plugin -p criu-signals$(locked)$(profile_flag)
	@scripts/build-deb "$(target_path)/$(PROFILE)/libsignals_plugin.so" "$(target_path)/$(PROFILE)/criu-signals" \
	  "$(target_path)/criu/criu" "$(TARGET)"

rpm: PROFILE := release
rpm: deps criu ## makes the RPM packages criu-signals and criu-signals-plugin, in target/, for machines like this one
	@scripts/install-deps rpm
	$(cargo) build -p signals-plugin -p criu-signals$(locked)$(profile_flag)
	@scripts/build-rpm "$(target_path)/$(PROFILE)/libsignals_plugin.so" "$(target_path)/$(PROFILE)/criu-signals" \
	  "$(or $(PLUGINDIR),$$("$(target_path)/$(PROFILE)/criu-signals" plugin-dir --criu "$(target_path)/criu/criu"))" "$(TARGET)"

# By musl, as glibc is not meant to be linked so. clang's own headers go with the headers of glibc, and what bindgen reads is the same.
static: deps criu ## builds the command alone as a static program, target/static/criu-signals, for machines with another C library
	@rustup target list --installed 2>/dev/null | grep -qx x86_64-unknown-linux-musl || rustup target add x86_64-unknown-linux-musl
	BINDGEN_EXTRA_CLANG_ARGS_x86_64_unknown_linux_musl=--target=x86_64-unknown-linux-gnu $(cargo) build -p criu-signals \
	  --bin criu-signals --release --target x86_64-unknown-linux-musl$(locked)
	@mkdir -p "$(TARGET)/static"
	strip -o "$(TARGET)/static/criu-signals" "$(TARGET)/x86_64-unknown-linux-musl/release/criu-signals"

.PHONY: node-image
node-image: PROFILE := release
node-image: static ## puts together the folder of the image for Kubernetes nodes, target/node-image (podman build target/node-image)
	@scripts/install-deps node
	$(cargo) build -p signals-plugin$(locked)$(profile_flag)
	@scripts/build-node-image "$(target_path)/$(PROFILE)/libsignals_plugin.so" "$(TARGET)/static/criu-signals" "$(TARGET)/node-image"

msrv: deps criu oldest-rust ## checks everything with the oldest Rust, rust-version of Cargo.toml, which rustup fetches
	$(cargo) +$(oldest_rust) check --workspace --all-targets$(locked) --target-dir "$(target_path)/msrv"

.PHONY: oldest-rust
oldest-rust:
	@rustup run $(oldest_rust) rustc --version >/dev/null 2>&1 || \
	  rustup toolchain install --profile minimal --no-self-update $(oldest_rust)

tools: ## installs cargo-deny into target/tools, where lint looks for it too (takes minutes to compile)
	cargo install --locked --root "$(target_path)/tools" cargo-deny

book: mdbook ## makes the documents a book, target/book/html/index.html, and checks the links in it
	@scripts/book "$(target_path)/tools/bin/mdbook" "$(target_path)/book"

# In its own folder of tools, so that it is the version that CI has.
.PHONY: mdbook
mdbook:
	@[ "$$("$(target_path)/tools/bin/mdbook" --version 2>/dev/null)" = "mdbook v$(MDBOOK_VERSION)" ] || \
	  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features --version $(MDBOOK_VERSION) --root "$(target_path)/tools" mdbook

lint: deps criu ## checks formatting, clippy, documentation; dependencies too, where cargo-deny is installed (make tools)
	cargo fmt --all --check
	$(cargo) clippy --workspace --all-targets$(locked) --quiet -- -D warnings
	$(cargo) clippy -p criu-signals --lib --features faults$(locked) --quiet -- -D warnings
	$(cargo) clippy -p criu-signals --all-targets --no-default-features$(locked) --quiet -- -D warnings
	$(cargo) clippy -p criu-signals --all-targets --no-default-features --features engine$(locked) --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(cargo) doc -p criu-signals --lib --no-default-features --no-deps$(locked) --quiet
	RUSTDOCFLAGS="-D warnings" $(cargo) doc --workspace --no-deps$(locked) --quiet
	@PATH="$(target_path)/tools/bin:$$PATH"; if cargo deny --version >/dev/null 2>&1; then \
	  echo "cargo deny check $(DENY)"; cargo deny$(locked) --log-level warn check $(DENY); \
	else echo "lint: dependencies are not checked: cargo-deny is not installed (make tools)"; fi

clean: ## removes everything that was built and fetched
	cargo clean --quiet
	@rm -rf -- "$(TARGET)"/host "$(TARGET)"/host-*
	@rm -rf -- "$(TARGET)"/criu "$(TARGET)"/criu-* "$(TARGET)"/plugins "$(TARGET)"/plugins-* "$(TARGET)"/faults "$(TARGET)"/faults-*

source:
	@[ -n "$(CRIU_SRC)" ] || { echo "CRIU's source tree is needed: make zdtm CRIU_SRC=dir" >&2; exit 1; }

root:
	@[ "$$(id -u)" = 0 ] || { echo 'criu must run as root: sudo -E env PATH="$$PATH" make ...' >&2; exit 1; }
