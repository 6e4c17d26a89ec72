# Poplar. `make run` shows it at work, `make check` runs every test; README.md has the rest.

CC ?= cc
V ?=
Q := $(if $(V),,@)
say = $(if $(V),,@echo '  $(1)')
PKG_CONFIG ?= pkg-config
B ?= build
VERSION := 0.1

PREFIX ?= /usr/local
LIBEXECDIR ?= $(PREFIX)/libexec
SYSCONFDIR ?= /etc

# CPPFLAGS, CFLAGS and LDFLAGS are the caller's; what Poplar cannot do without stands beside them.
CFLAGS ?= -O2 -g
WERROR ?= -Werror
# On machines of 32 bits files can be larger than a long says. (The size of a time is the
# distribution's choice: SQLite must have been built with the same.)
narrow := $(shell echo __SIZEOF_LONG__ | $(CC) -E -P - 2>/dev/null | grep -x 4)
wide := $(if $(narrow),-D_FILE_OFFSET_BITS=64)
cpp := -I. -I$(B) -D_GNU_SOURCE $(wide) -DPOPLAR_VERSION='"$(VERSION)"' \
	-DPOPLAR_LIBEXEC='"$(LIBEXECDIR)/poplar"' -DPOPLAR_CONFIG='"$(SYSCONFDIR)/poplar/poplar.conf"' \
	$(if $(findstring -O,$(CFLAGS)),-D_FORTIFY_SOURCE=2)
warnings := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla $(WERROR)
compile = $(CC) $(cpp) $(CPPFLAGS) -std=c17 -fPIE -fstack-protector-strong -fno-common $(warnings) $(CFLAGS)
link = $(CC) -pie $(CFLAGS) -Wl,-z,relro,-z,now -Wl,--as-needed $(LDFLAGS)
comma := ,

# The floor that every process stands on, and what only some of them link.
FLOOR := base proto message channel config complete textlist
CHILD := child privileges
CTL_FLOOR := configfile
MASTER := $(filter-out $(FLOOR) $(CHILD) $(CTL_FLOOR) main,$(notdir $(basename $(wildcard daemon/*.c))))
# Of the store, what only poplarctl does is no part of a worker.
TOOLS := backup check leaf manage salvage
STORE := $(filter-out mktemplate ctl% $(TOOLS),$(notdir $(basename $(wildcard store/*.c))))
CTL := $(TOOLS) $(filter-out ctl,$(notdir $(basename $(wildcard store/ctl*.c))))
AUTH := $(filter-out main,$(notdir $(basename $(wildcard auth/*.c))))
# Not the clock: tests have one of their own.
WORKER := $(filter-out main clock poplar_deliver,$(notdir $(basename $(wildcard worker/*.c))))

FLOOR_O := $(FLOOR:%=$(B)/daemon/%.o)
CHILD_O := $(CHILD:%=$(B)/daemon/%.o)
CONFIGFILE_O := $(B)/daemon/configfile.o
MASTER_O := $(MASTER:%=$(B)/daemon/%.o)
STORE_O := $(STORE:%=$(B)/store/%.o)
CTL_O := $(CTL:%=$(B)/store/%.o)
# The master looks at services, too, and there that is one of its own files.
AUTH_O := $(AUTH:%=$(B)/auth/%.o) $(B)/daemon/pam_service.o
WORKER_O := $(WORKER:%=$(B)/worker/%.o)
TEMPLATE_O := $(B)/store/template.o

PROGRAMS := poplard poplar-auth poplar-worker poplarctl poplar-deliver
UNIT := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
# These take the place of calls by the names that they have where a long has 64 bits.
FAULTS := $(if $(narrow),,$(patsubst tests/faults/%.c,$(B)/tests/%,$(wildcard tests/faults/test_*.c)))
CALLS := $(if $(narrow),,$(patsubst tests/calls/%.c,$(B)/tests/%,$(wildcard tests/calls/test_*.c)))
FAULTS_O := $(patsubst %.c,$(B)/%.o,$(filter-out tests/faults/test_%,$(wildcard tests/faults/*.c)))
INSIDE_O := $(B)/tests/support/inside.o
FUZZ := $(patsubst tests/fuzz/%.c,$(B)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
MODULES := $(patsubst tests/support/%.c,$(B)/tests/%.so,$(wildcard tests/support/pam_*.c))
FAILING := $(if $(narrow),,$(B)/tests/failing.so $(B)/tests/clock.so)

all: $(PROGRAMS:%=$(B)/%)

$(B)/poplard: $(B)/daemon/main.o $(MASTER_O) $(CONFIGFILE_O) $(B)/daemon/privileges.o $(FLOOR_O)
$(B)/poplard: LDLIBS := -lsystemd -linih
$(B)/poplar-auth: $(B)/auth/main.o $(AUTH_O) $(TEMPLATE_O) $(CHILD_O) $(FLOOR_O)
$(B)/poplar-auth: LDLIBS := -lpam
# PAM modules call these, which are then ours, see auth/syslog.c.
$(B)/poplar-auth: private override LDFLAGS += $(patsubst %,-Wl$(comma)--export-dynamic-symbol=%,\
	syslog vsyslog __syslog_chk __vsyslog_chk)
$(B)/poplar-worker: $(B)/worker/main.o $(B)/worker/clock.o $(WORKER_O) $(STORE_O) $(TEMPLATE_O) \
	$(CHILD_O) $(FLOOR_O)
$(B)/poplar-worker: LDLIBS := -lssl -lcrypto -lsqlite3 -lseccomp -lidn
$(B)/poplarctl: $(B)/store/ctl.o $(CTL_O) $(STORE_O) $(B)/auth/grant.o $(B)/auth/canonical.o \
	$(TEMPLATE_O) $(CONFIGFILE_O) $(B)/daemon/privileges.o $(FLOOR_O)
$(B)/poplarctl: LDLIBS := -lsqlite3 -linih -ljansson -lcrypto
$(B)/poplar-deliver: $(B)/worker/poplar_deliver.o $(CONFIGFILE_O) $(FLOOR_O)
$(B)/poplar-deliver: LDLIBS := -linih

$(PROGRAMS:%=$(B)/%):
	$(call say,$@)
	$(Q)$(link) -o $@ $(filter %.o,$^) $(LDLIBS)

# The empty maildrop that auth copies: schema and WAL mode from the store's own code.
$(B)/store/mktemplate: $(B)/store/mktemplate.o $(STORE_O)
	$(call say,$@)
	$(Q)$(link) -o $@ $^ -lsqlite3
$(B)/store/template.c: $(B)/store/mktemplate
	$(B)/store/mktemplate $@
$(B)/store/template.o: $(B)/store/template.c
	$(call say,$@)
	$(Q)$(compile) -c -o $@ $<

# Programs know where they are installed to: with another PREFIX they are built anew.
$(B)/paths: unchecked
	@mkdir -p $(@D)
	@echo '$(LIBEXECDIR) $(SYSCONFDIR) $(VERSION)' | cmp -s - $@ || \
	    echo '$(LIBEXECDIR) $(SYSCONFDIR) $(VERSION)' >$@

$(B)/%.o: %.c $(B)/paths
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(compile) -MMD -MP -c -o $@ $<

# Unit tests link everything but the programs' mains.
$(B)/tests/test_%: $(B)/tests/unit/test_%.o $(MASTER_O) $(CONFIGFILE_O) $(CTL_O) $(AUTH_O) \
		$(WORKER_O) $(STORE_O) $(TEMPLATE_O) $(CHILD_O) $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -o $@ $^ -lcmocka -lsystemd -linih -ljansson -lpam -lssl -lcrypto -lsqlite3 -lseccomp -lidn
answers := libversion_number compileoption_used config db_config initialize limit file_control open_v2 column_text \
	vfs_find vfs_register
$(B)/tests/test_unfit: private override LDFLAGS += $(answers:%=-Wl,--wrap=sqlite3_%)

# Over a disk that fails and loses what was not synced, and without memory.
$(FAULTS): $(B)/tests/%: $(B)/tests/faults/%.o $(FAULTS_O) $(INSIDE_O) $(CTL_O) $(AUTH_O) $(WORKER_O) \
		$(STORE_O) $(TEMPLATE_O) $(CONFIGFILE_O) $(CHILD_O) $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -o $@ $^ -lcmocka -linih -ljansson -lpam -lssl -lcrypto -lsqlite3 -lseccomp -lidn
refusing := malloc calloc realloc reallocarray strdup free mmap mremap \
	sqlite3_prepare_v2 sqlite3_prepare_v3 sqlite3_step sqlite3_exec
$(FAULTS): private override LDFLAGS += $(refusing:%=-Wl,--wrap=%)

# With calls into the system and its libraries that fail.
CALL_NAMES := $(shell awk -F, '/^CALL/ { print $$2 }' tests/calls/calls.c)
$(CALLS): $(B)/tests/%: $(B)/tests/calls/%.o $(B)/tests/calls/calls.o $(MASTER_O) $(CTL_O) \
		$(AUTH_O) $(WORKER_O) $(STORE_O) $(TEMPLATE_O) $(CONFIGFILE_O) $(CHILD_O) $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) $(CALL_NAMES:%=-Wl,--wrap=%) -o $@ $(filter %.o,$^) \
	    -lcmocka -lsystemd -linih -ljansson -lpam -lssl -lcrypto -lsqlite3 -lseccomp -lidn

$(B)/tests/test_calls_session: $(INSIDE_O)

# Conversation files against a real worker.
$(B)/tests/converse: $(patsubst %.c,$(B)/%.o,$(wildcard tests/protocol/*.c)) $(WORKER_O) $(STORE_O) \
		$(TEMPLATE_O) $(CHILD_O) $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -o $@ $^ -lcmocka -lssl -lcrypto -lsqlite3 -lseccomp -lidn

# Fuzz targets: `make fuzz` builds them, and what they are made of, with clang below $(B)/fuzz.
$(FUZZ): $(B)/tests/%: $(B)/tests/fuzz/%.o $(INSIDE_O) $(B)/daemon/address.o $(CTL_O) $(AUTH_O) $(WORKER_O) \
		$(STORE_O) $(TEMPLATE_O) $(CONFIGFILE_O) $(CHILD_O) $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -fsanitize=fuzzer -o $@ $^ -linih -ljansson -lpam -lssl -lcrypto -lsqlite3 -lseccomp -lidn
fuzz-targets: $(FUZZ)

$(B)/tests/pam_%.so: tests/support/pam_%.c
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(compile) -fPIC -shared -o $@ $< -lpam

# Preloaded: one call of a program fails, what valgrind has no answer for, and a clock that is set. No
# sanitizer in them: they come before its own.
$(B)/tests/failing.so $(B)/tests/valgrind.so $(B)/tests/clock.so: $(B)/tests/%.so: tests/support/%.c
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(compile) -fno-sanitize=all -fPIC -shared -o $@ $<

# A child that breaks the contract, for the system tests.
$(B)/tests/rogue: $(B)/tests/support/rogue.o $(B)/daemon/child.o $(B)/worker/filter.o $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -o $@ $^ -lseccomp

# A worker in which an attacker runs code, for the system tests.
$(B)/tests/exploited: $(B)/tests/support/exploit.o $(B)/worker/main.o $(B)/worker/clock.o \
		$(WORKER_O) $(STORE_O) $(TEMPLATE_O) $(CHILD_O) $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -Wl,--wrap=commands_find -o $@ $^ -lssl -lcrypto -lsqlite3 -lseccomp -lidn

TIME ?= 60
clang_fuzz := CC=clang B=$(B)/fuzz \
	CFLAGS='-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all'
fuzz: deps-build deps-fuzz
	@$(MAKE) --no-print-directory $(clang_fuzz) fuzz-targets
	@tests/fuzz/run.sh $(B)/fuzz/tests $(TIME)

# The bench's load generator.
$(B)/tests/load: $(B)/tests/bench/load.o $(B)/tests/bench/script.o
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -o $@ $^ -lssl -lcrypto

# What the hot paths cost, for callgrind to count.
$(B)/tests/budget: $(B)/tests/bench/budget.o $(WORKER_O) $(STORE_O) $(TEMPLATE_O) $(CHILD_O) $(FLOOR_O)
	@mkdir -p $(@D)
	$(call say,$@)
	$(Q)$(link) -o $@ $^ -lssl -lcrypto -lsqlite3 -lseccomp -lidn

deps-%:
	@packaging/install-deps.sh $*

# Two commands on a fresh machine. Each installs what it needs, then builds with a second make,
# whose pkg-config and headers are there by then.
run: deps-build deps-run
	@$(MAKE) --no-print-directory all
	@packaging/demo.sh $(B)

check: deps-build deps-check deps-deb $(if $(filter 1,$(LONG)),deps-long)
	@$(MAKE) --no-print-directory lint tests trees
	$(if $(shell command -v clang),@$(MAKE) --no-print-directory $(clang_fuzz) fuzz-targets)
	$(if $(filter 1,$(LONG)),@$(MAKE) --no-print-directory analyse)
	@tests/support/check.sh $(B)

tests: all $(UNIT) $(FAULTS) $(CALLS) $(FUZZ:$(B)/tests/%=$(B)/tests/fuzz/%.o) $(MODULES) $(FAILING) $(B)/tests/converse $(B)/tests/rogue $(B)/tests/exploited \
	$(B)/tests/budget

# Servers that tests put in front of Poplar, or move in from, each in a tree of its own: where one
# cannot be made, its tests are skipped.
servers:
	@tests/support/tree.sh haproxy haproxy >/dev/null || true
	@tests/support/tree.sh nginx nginx libnginx-mod-mail >/dev/null || true
	@tests/support/tree.sh fail2ban fail2ban >/dev/null || true
	@tests/support/tree.sh postfix postfix procmail >/dev/null || true
	@tests/support/tree.sh exim exim4-daemon-light >/dev/null || true
	@tests/support/tree.sh dovecot dovecot-pop3d >/dev/null || true
	@tests/support/tree.sh courier courier-pop >/dev/null || true
	@tests/support/tree.sh popa3d popa3d >/dev/null || true
	@tests/support/tree.sh cyrus cyrus-pop3d sasl2-bin >/dev/null || true
	$(if $(filter 1,$(LONG)),@tests/support/tree.sh sendmail sendmail-bin sendmail-cf m4 >/dev/null || true)
	$(if $(filter 1,$(LONG)),@tests/support/tree.sh opensmtpd opensmtpd >/dev/null || true)

# And trees that Poplar runs in itself.
runtime := libidn12 libinih1 libjansson4 libpam-modules libpam-pwdfile libseccomp2 libsqlite3-0 \
	libssl3 libsystemd0
# Or is built in: another Debian.
elsewhere = $(shell LIST=1 packaging/install-deps.sh build) libcmocka-dev libpam-wrapper libpam-pwdfile \
	python3-pytest e2fsprogs openssl procps util-linux passwd strace sqlite3 curl mandoc man-db groff-base
trees: servers
	@tests/support/tree.sh runtime $(runtime) >/dev/null || true
	@tests/support/tree.sh directory slapd ldap-utils nslcd libnss-ldapd libpam-ldapd krb5-kdc \
		krb5-admin-server libpam-krb5 $(runtime) >/dev/null || true
	@tests/support/tree.sh sssd sssd-common sssd-proxy libpam-sss libnss-sss libnss-extrausers \
		$(runtime) >/dev/null || true
	@tests/support/tree.sh booted systemd-sysv dbus libnss-systemd ssl-cert sssd-common sssd-proxy \
		libpam-sss libnss-sss libnss-extrausers python3 openssl procps curl postfix $(runtime) >/dev/null || true
	@! command -v dh >/dev/null || $(MAKE) --no-print-directory $(B)/deb/tested
	$(if $(filter 1,$(LONG)),@SUITE=trixie tests/support/tree.sh next $(elsewhere) >/dev/null || true)
	$(if $(filter 1,$(LONG)),@ARCH=i386 tests/support/tree.sh narrow $(elsewhere) >/dev/null || true)

unit: $(UNIT) $(FAULTS) $(CALLS) $(MODULES)
	@set -e; for t in $(UNIT) $(FAULTS) $(CALLS); do $$t; done

# Poplar beside its peers, tests/bench/README.md. SCENARIO= and SERVERS= choose, by the beginnings of
# names with commas between them. Built as the packages are, all of a program at once.
bench: deps-build deps-check
	@$(MAKE) --no-print-directory B=$(B)/bench CFLAGS='-O2 -g -flto=auto' all $(B)/bench/tests/load
	@tests/bench/run.sh $(B)/bench $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SERVERS),--servers $(SERVERS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS)) \
		--results $(or $(RESULTS),tests/bench/results)

# Format, and who may include whom. Warnings are errors in every build.
lint:
	@clang-format --dry-run --Werror $(wildcard */*.[ch] tests/*/*.[ch])
	@tests/support/arrows.sh
	@pyflakes3 tests
	@echo "lint: clean"

# Static analysers over all that is shipped.
analyse: deps-build deps-long
	@$(MAKE) --no-print-directory $(B)/store/template.c
	@tests/support/analyse.sh $(cpp) $(CPPFLAGS) -std=c17

# Every test with address and undefined-behaviour sanitizers in all programs. libcrypt is named so
# that the sanitizer finds what pam_unix will call. Without the fortified functions: they are no names
# that the sanitizer, or a test that refuses a call, knows.
sanitize := B=$(B)/sanitized CFLAGS='-O1 -g -U_FORTIFY_SOURCE -fsanitize=address,undefined -fno-sanitize-recover=all'
sanitized: deps-build deps-check trees
	@$(MAKE) --no-print-directory $(sanitize) $(B)/sanitized/tests/support/sanitizer.o
	@$(MAKE) --no-print-directory $(sanitize) tests \
	    LDFLAGS='$(B)/sanitized/tests/support/sanitizer.o -Wl,--no-as-needed -lcrypt -Wl,--as-needed'
	@SANITIZED=1 tests/support/check.sh $(B)/sanitized

# The test programs, and the real ones in the system tests, under valgrind. Without the fortified
# functions: valgrind takes memmove's for memcpy's.
memcheck: deps-build deps-check servers
	@$(MAKE) --no-print-directory B=$(B)/memcheck CFLAGS='-O1 -g -U_FORTIFY_SOURCE' \
	    tests $(B)/memcheck/tests/valgrind.so
	@MEMCHECK=1 tests/support/check.sh $(B)/memcheck

# Which branches the tests take, in all programs.
coverage: deps-build deps-check deps-fuzz trees
	@$(MAKE) --no-print-directory B=$(B)/coverage CC=clang CFLAGS='-O1 -g -fprofile-instr-generate \
	    -fprofile-update=atomic -fcoverage-mapping -mllvm -runtime-counter-relocation \
	    -Wno-unused-command-line-argument' tests
	@tests/support/coverage.sh $(B)/coverage

clean:
	rm -rf $(B)

include packaging/install.mk

# Debian packages, in $(B)/deb; RPMs, in $(B)/rpm.
deb: deps-build deps-deb
	@packaging/deb.sh $(B)
rpm: deps-build deps-rpm
	@packaging/rpm.sh $(B)

# The same for the tests, which run unit tests by themselves; built anew when what is in it is newer.
$(B)/deb/tested: $(shell find Makefile LICENSE README.md auth daemon packaging store worker -type f)
	@echo "Building a Debian package"
	@DEB_BUILD_OPTIONS=nocheck packaging/deb.sh $(B) >/dev/null
	@touch $@

.PHONY: all run check analyse sanitized memcheck coverage bench fuzz fuzz-targets tests servers trees unit lint clean deb rpm unchecked
.SECONDARY:
-include $(shell find $(B) -name '*.d' -type f 2>/dev/null)
