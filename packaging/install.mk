# make install, make uninstall: everything that the packages hold, below DESTDIR. Included by the
# Makefile. A configuration that is there already is kept; accounts, directories and the start are
# the system's own tools' to make, install names them.

SBINDIR ?= $(PREFIX)/sbin
BINDIR ?= $(PREFIX)/bin
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
DOCDIR ?= $(DATADIR)/doc/poplar

# Where a system has no systemd or bash-completion, their usual places.
told = $(or $(shell $(PKG_CONFIG) --variable=$(2) $(1) 2>/dev/null),$(3))
UNITDIR ?= $(call told,systemd,systemdsystemunitdir,$(PREFIX)/lib/systemd/system)
SYSUSERSDIR ?= $(call told,systemd,sysusersdir,$(PREFIX)/lib/sysusers.d)
TMPFILESDIR ?= $(call told,systemd,tmpfilesdir,$(PREFIX)/lib/tmpfiles.d)
CATALOGDIR ?= $(call told,systemd,catalogdir,$(PREFIX)/lib/systemd/catalog)
COMPLETIONDIR ?= $(call told,bash-completion,completionsdir,$(DATADIR)/bash-completion/completions)

# What the configuration names until there is a better one, and the stack that checks passwords.
CERTIFICATE ?= $(SYSCONFDIR)/poplar/certificate.pem
KEY ?= $(SYSCONFDIR)/poplar/key.pem
PAM_SERVICE ?= packaging/pam/poplar

to = $(foreach file,$(1),$(file)=$(2)/$(notdir $(file)))
installed_programs = $(call to,$(B)/poplard $(B)/poplarctl,$(SBINDIR)) \
	$(call to,$(B)/poplar-deliver,$(BINDIR)) \
	$(call to,$(B)/poplar-auth $(B)/poplar-worker,$(LIBEXECDIR)/poplar) \
	packaging/certbot/poplar=$(DATADIR)/poplar/certbot-hook
installed_files = \
	$(call to,$(wildcard packaging/systemd/poplar*.socket packaging/systemd/poplar*.service \
		packaging/systemd/poplar*.timer),$(UNITDIR)) \
	$(call to,$(wildcard packaging/systemd/*.conf),$(DATADIR)/poplar) \
	$(call to,$(wildcard packaging/systemd/*.catalog),$(CATALOGDIR)) \
	$(call to,packaging/sysusers.d/poplar.conf,$(SYSUSERSDIR)) \
	$(call to,packaging/tmpfiles.d/poplar.conf,$(TMPFILESDIR)) \
	$(call to,packaging/completion/poplarctl,$(COMPLETIONDIR)) \
	$(foreach section,5 7 8,$(call to,$(wildcard packaging/man/*.$(section)),$(MANDIR)/man$(section))) \
	$(call to,README.md,$(DOCDIR))
kept_files = \
	$(call to,packaging/poplar.conf,$(SYSCONFDIR)/poplar) \
	$(call to,packaging/ufw/poplar,$(SYSCONFDIR)/ufw/applications.d) \
	$(call to,packaging/fail2ban/poplar.conf,$(SYSCONFDIR)/fail2ban/filter.d) \
	$(call to,packaging/apparmor/usr.sbin.poplard,$(SYSCONFDIR)/apparmor.d) \
	packaging/fail2ban/poplar-jail.conf=$(SYSCONFDIR)/fail2ban/jail.d/poplar.conf \
	$(PAM_SERVICE)=$(SYSCONFDIR)/pam.d/poplar

# The first four for what pages and README tell to type, the last two for AppArmor's profile.
substitute = sed -e 's|/usr/share/poplar|$(DATADIR)/poplar|g' \
	-e 's|/usr/libexec/poplar|$(LIBEXECDIR)/poplar|g' \
	-e 's|/usr/bin/poplar-deliver|$(BINDIR)/poplar-deliver|g' \
	-e 's|/etc/poplar/|$(SYSCONFDIR)/poplar/|g' -e 's|@SBINDIR@|$(SBINDIR)|g' -e 's|@DATADIR@|$(DATADIR)|g' \
	-e 's|@CERTIFICATE@|$(CERTIFICATE)|g' -e 's|@KEY@|$(KEY)|g' \
	-e 's|/usr/{,local/}sbin/poplard|$(SBINDIR)/poplard|' \
	-e 's|/usr/{,local/}libexec/poplar/|$(LIBEXECDIR)/poplar/|'

install: all
	@set -e; umask 022; put() { \
	    mkdir -p "$(DESTDIR)$${2%/*}"; $(substitute) "$$1" >"$(DESTDIR)$$2.new"; \
	    chmod 644 "$(DESTDIR)$$2.new"; mv "$(DESTDIR)$$2.new" "$(DESTDIR)$$2"; }; \
	for f in $(installed_programs); do install -D -m 755 "$${f%%=*}" "$(DESTDIR)$${f#*=}"; done; \
	for f in $(installed_files); do put "$${f%%=*}" "$${f#*=}"; done; \
	for f in $(kept_files); do \
	    if [ -e "$(DESTDIR)$${f#*=}" ]; then echo "install: $(DESTDIR)$${f#*=} is there, kept"; \
	    else put "$${f%%=*}" "$${f#*=}"; fi; done; \
	mkdir -p "$(DESTDIR)$(SYSCONFDIR)/poplar/poplar.conf.d"
	@[ -n "$(DESTDIR)" ] || printf '%s\n' 'Installed. As root, to begin with:' \
	    '  systemd-sysusers && systemd-tmpfiles --create $(TMPFILESDIR)/poplar.conf' \
	    '  journalctl --update-catalog; systemctl daemon-reload' \
	    '  put a certificate where $(SYSCONFDIR)/poplar/poplar.conf says' \
	    '  systemctl enable --now poplar.service poplar-expire.timer' \
	    'Without systemd, $(SBINDIR)/poplard --check tells what is still to be made.'

uninstall:
	@for f in $(installed_programs) $(installed_files); do rm -f "$(DESTDIR)$${f#*=}"; done
	@rmdir "$(DESTDIR)$(LIBEXECDIR)/poplar" "$(DESTDIR)$(DATADIR)/poplar" "$(DESTDIR)$(DOCDIR)" \
	    2>/dev/null || true
	@echo "Gone, but for what is in $(DESTDIR)$(SYSCONFDIR), the mail and the accounts."

.PHONY: install uninstall
