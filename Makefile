# The one entry point of the project; `make help` lists what it can do.
#
# Variables: NGINX=/path/to/nginx (an OpenResty, for example; otherwise openresty
# or nginx in PATH), CARGO, CC, CXX, PREFIX, LUA_LIB_DIR, LUA_LIBDIR, DESTDIR,
# BENCH_ARGS.

SHELL = /bin/sh
CARGO ?= cargo
CC ?= cc
CXX ?= c++
GO ?= go
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
LUA_LIB_DIR ?= $(PREFIX)/share/lua/5.1
LUA_LIBDIR ?= $(PREFIX)/lib/lua/5.1
INCLUDE_DIR ?= $(PREFIX)/include

# Where rustup puts cargo, and Debian nginx, is not in everybody's PATH; the
# programs for `make lint` are where scripts/deps.sh has put them.
export PATH := $(CURDIR)/target/tools:$(PATH):/usr/sbin:/sbin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
# Tests, examples and the rock expect the results in this place.
export CARGO_TARGET_DIR := $(CURDIR)/target
export CARGO CC CXX GO
# nginx itself takes a variable NGINX in its environment for the sockets that it
# inherits, so the scripts get the path under another name, and nginx gets none.
unexport NGINX
ifneq ($(NGINX),)
export TEST_NGINX_BINARY := $(NGINX)
endif

PLUGIN_CFLAGS = -std=c99 -fPIC -shared -pthread -Iinclude -Wall -Wextra $(CFLAGS)
HEADER = include/nonblocking_ffi.h

# examples/<name>/<name>.c and examples/<name>/Cargo.toml make
# target/examples/lib<name>.so (the Rust packages are nonblocking-ffi-<name>);
# t/plugins/<name>.c makes target/test-plugins/lib<name>.so.
C_EXAMPLES := $(foreach d,$(wildcard examples/*),$(wildcard $(d)/$(notdir $(d)).c))
C_EXAMPLE_LIBS := $(foreach c,$(C_EXAMPLES),target/examples/lib$(basename $(notdir $(c))).so)
RUST_EXAMPLES := $(notdir $(patsubst %/Cargo.toml,%,$(wildcard examples/*/Cargo.toml)))
TEST_PLUGIN_LIBS := $(patsubst t/plugins/%.c,target/test-plugins/lib%.so,$(wildcard t/plugins/*.c))

# examples/go/<name> makes target/examples/libgo_<name>.so; t/plugins/go makes
# target/test-plugins/libgo_verbs.so.
GO_EXAMPLES := $(notdir $(patsubst %/main.go,%,$(wildcard examples/go/*/main.go)))
GO_LIBS := $(GO_EXAMPLES:%=target/examples/libgo_%.so) target/test-plugins/libgo_verbs.so
GO_SOURCES := $(shell find runtimes/go examples/go t/plugins/go -name '*.go' -o -name '*.[ch]' -o -name 'go.*')

.PHONY: help build runtimes hosts examples rust-examples go-examples demo test t soak bench lint fmt install deps clean

help:
	@echo "make build     the shared object, target/release/libnonblocking_ffi.so"
	@echo "make runtimes  the runtimes of Python and Java, in target/release/"
	@echo "make examples  the example plugins, in target/examples/"
	@echo "make demo      pictures resized off the event loop of a running nginx"
	@echo "make test      every test; make t runs those in t/ only"
	@echo "make soak      the tests that have a size, as large as before a release"
	@echo "make bench     the benchmarks"
	@echo "make lint      format, lints, dependencies, spelling, commit subjects"
	@echo "make fmt       formats the Rust code"
	@echo "make install   to PREFIX=$(PREFIX)"
	@echo "make deps      what the other targets need (on Debian; they ask for it, too)"
	@echo "make clean     removes what was built"
	@echo "With an nginx of your own: make test NGINX=/path/to/nginx"

build:
	@sh scripts/deps.sh build
	sh scripts/build-core.sh

# Language runtimes: shared objects beside the core's.
runtimes:
	$(CARGO) build --release --locked -p nonblocking-ffi-python
	sh runtimes/java/build.sh runtime

# The name that it had before.
hosts: runtimes

examples: $(C_EXAMPLE_LIBS) $(TEST_PLUGIN_LIBS) rust-examples go-examples
	sh runtimes/java/build.sh examples tests

# Libraries are put in place by renaming: an nginx may have the old one mapped.
define C_PLUGIN
@mkdir -p $(@D)
$(CC) $(PLUGIN_CFLAGS) $< -o $@.new $(LDLIBS)
@mv -f $@.new $@
endef

define EXAMPLE_RULE
target/examples/lib$(basename $(notdir $(1))).so: $(1) $(HEADER)
	$$(C_PLUGIN)
endef
$(foreach c,$(C_EXAMPLES),$(eval $(call EXAMPLE_RULE,$(c))))

target/test-plugins/lib%.so: t/plugins/%.c $(HEADER)
	$(C_PLUGIN)

rust-examples:
	@mkdir -p target/examples
ifneq ($(RUST_EXAMPLES),)
	$(CARGO) build --release --locked $(addprefix -p nonblocking-ffi-,$(RUST_EXAMPLES))
	@for name in $(RUST_EXAMPLES); do \
		cp target/release/lib$$name.so target/examples/lib$$name.so.new && \
		mv -f target/examples/lib$$name.so.new target/examples/lib$$name.so || exit 1; \
	done
endif

go-examples:
ifneq ($(shell command -v $(GO)),)
	@$(MAKE) --no-print-directory $(GO_LIBS)
else
	@echo "Go: left out, as there is no go (Debian: golang-go)"
endif

define GO_PLUGIN
@mkdir -p $(@D)
cd $(1) && $(GO) build -buildvcs=false -buildmode=c-shared -o $(CURDIR)/$@.new $(2)
@mv -f $@.new $@ && rm -f $@.h
endef

target/examples/libgo_%.so: $(GO_SOURCES)
	$(call GO_PLUGIN,examples/go,./$*)

target/test-plugins/libgo_verbs.so: $(GO_SOURCES)
	$(call GO_PLUGIN,t/plugins/go,.)

demo:
	@sh scripts/deps.sh demo
	@$(MAKE) --no-print-directory build runtimes examples
	@bash scripts/demo.sh

test:
	@sh scripts/deps.sh test
	@$(MAKE) --no-print-directory build runtimes examples
	@bash scripts/test.sh

t:
	@sh scripts/deps.sh test
	@$(MAKE) --no-print-directory build runtimes examples
	@bash scripts/test.sh t

soak:
	@sh scripts/deps.sh test
	@$(MAKE) --no-print-directory build runtimes examples
	@bash scripts/test.sh soak

bench:
	@sh scripts/deps.sh bench
	@$(MAKE) --no-print-directory build runtimes examples
	@eval "$$(sh scripts/nginx-env.sh)" && \
		export TEST_NGINX_BINARY TEST_NGINX_LOAD_MODULES && \
		$(CARGO) run --release --locked -p nonblocking-ffi-bench -- $(BENCH_ARGS)

lint:
	@sh scripts/deps.sh lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	luacheck -q lua examples bench t/plugins
	$(CARGO) deny --workspace --locked check bans licenses sources
	$(CARGO) shear --locked
	typos
	@echo "commit subjects of at most 72 characters"
	@! git log -50 --no-merges --format=%s | LC_ALL=C.UTF-8 grep -E '^.{73,}'

fmt:
	$(CARGO) fmt --all

install: build runtimes
	sh scripts/install.sh "$(DESTDIR)$(LUA_LIB_DIR)" "$(DESTDIR)$(LUA_LIBDIR)" "$(DESTDIR)$(INCLUDE_DIR)"

deps:
	@sh scripts/deps.sh all

clean:
	rm -rf target
