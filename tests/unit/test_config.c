/*
 * test_config.c - the settings table and the files it is read from: values, units, refusals with
 * file and line.
 */
#include "daemon/base.h"
#include "daemon/configfile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <cmocka.h>

/* A file in a directory of its own, and FILE.d for more. */
struct place {
    char dir[64], file[96], more_dir[112];
};

static int make_place(void **state)
{
    struct place *p = base_alloc(sizeof *p);
    base_copy(p->dir, sizeof p->dir, "/tmp/poplar-config-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->file, sizeof p->file, "%s/poplar.conf", p->dir);
    snprintf(p->more_dir, sizeof p->more_dir, "%s.d", p->file);
    assert_int_equal(mkdir(p->more_dir, 0755), 0);
    *state = p;
    return 0;
}

static int remove_place(void **state)
{
    struct place *p = *state;
    char *more = base_format("%s/10-more.conf", p->more_dir);
    unlink(more);
    unlink(p->file);
    rmdir(p->more_dir);
    rmdir(p->dir);
    free(more);
    free(p);
    return 0;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static struct config *read_text(struct place *p, const char *text, char *error, size_t size)
{
    write_file(p->file, text);
    return configfile_read(p->file, error, size);
}

#define MINIMAL "[tls]\nrequired=no\n"

static void defaults(void **state)
{
    char error[512] = "";
    struct config *c = read_text(*state, MINIMAL, error, sizeof error);
    assert_string_equal(error, "");
    assert_non_null(c);
    assert_string_equal(c->server.state_dir, "/var/lib/poplar");
    assert_string_equal(c->auth.pam_service, "poplar");
    assert_int_equal(c->workers.max_sessions, 1024);
    assert_int_equal(c->session.idle_timeout, 600);
    assert_int_equal(c->store.max_message, 50 << 20);
    assert_int_equal(c->store.undelete_for, 7 * 86400);
    assert_int_equal(c->listen.pop3.n, 2);
    assert_string_equal(c->listen.pop3.items[1], "[::1]:110");
    assert_false(config_is_given(c, "listen", "", "pop3"));
    assert_true(c->auth.require_nss);
    assert_int_equal(c->server.local_domains.n, 2);
    config_free(c);
}

static void values_and_units(void **state)
{
    char error[512] = "";
    struct config *c = read_text(*state,
                                 MINIMAL "[session]\nidle_timeout = 2h ; a comment\n"
                                         "[store]\nmax_message=3M\ncreate=no\nundelete_for=0\n"
                                         "[auth]\nusername=keep\nfirst_uid=500\n"
                                         "[listen]\npop3=127.0.0.1:1110,\n  127.0.0.2:1110\n"
                                         "[domain example.org]\npam_service=org\n",
                                 error, sizeof error);
    assert_string_equal(error, "");
    assert_int_equal(c->session.idle_timeout, 7200);
    assert_int_equal(c->store.max_message, 3 << 20);
    assert_false(c->store.create);
    assert_int_equal(c->store.undelete_for, 0);
    assert_int_equal(c->auth.username, USERNAME_KEEP);
    assert_int_equal(c->auth.first_uid, 500);
    assert_int_equal(c->listen.pop3.n, 2);
    assert_string_equal(c->listen.pop3.items[1], "127.0.0.2:1110");
    assert_true(config_is_given(c, "listen", "", "pop3"));
    assert_false(config_is_given(c, "listen", "", "pop3s"));
    assert_int_equal(c->auth.n_domains, 1);
    assert_string_equal(c->auth.domains[0].pam_service, "org");
    config_free(c);
}

/* The order of words in the table is that of their values. */
static void words(void **state)
{
    struct config *c = config_new();
    const struct {
        const char *section, *key, *word;
        const unsigned *value;
        unsigned wanted;
    } last[] = {
        {"server", "log_to", "stderr", &c->server.log_to, LOG_TO_STDERR},
        {"server", "log_level", "error", &c->server.log_level, LOG_ERR},
        {"server", "log_level", "debug", &c->server.log_level, LOG_DEBUG},
        {"listen", "proxy_tls", "assume", &c->listen.proxy_tls, 1},
        {"workers", "landlock", "require", &c->workers.landlock, 1},
        {"workers", "seccomp", "log", &c->workers.seccomp, 1},
        {"tls", "required", "not-on-loopback", &c->tls.required, TLS_REQUIRED_NOT_ON_LOOPBACK},
        {"tls", "required", "no", &c->tls.required, TLS_REQUIRED_NO},
        {"tls", "minimum", "TLSv1.3", &c->tls.minimum, TLS_MINIMUM_1_3},
        {"tls", "alpn", "ignore", &c->tls.alpn, 1},
        {"tls", "client_name", "cn", &c->tls.client_name, 1},
        {"auth", "canonical", "pam", &c->auth.canonical, CANONICAL_PAM},
        {"auth", "username", "keep", &c->auth.username, USERNAME_KEEP},
        {"auth", "strip_domain", "always", &c->auth.strip_domain, STRIP_ALWAYS},
        {"auth", "strip_domain", "never", &c->auth.strip_domain, STRIP_NEVER},
        {"session", "lock", "takeover", &c->session.lock, LOCK_TAKEOVER},
        {"session", "nul", "replace", &c->session.nul, 1},
        {"store", "over_quota", "reject", &c->store.over_quota, OVER_QUOTA_REJECT},
        {"delivery", "accept", "maildrop", &c->delivery.accept, ACCEPT_MAILDROP},
        {"delivery", "accept", "any", &c->delivery.accept, ACCEPT_ANY},
        {"delivery", "nul", "reject", &c->delivery.nul, 1},
    };
    char error[256];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(last); i++) {
        assert_true(
            config_set(c, last[i].section, "", last[i].key, last[i].word, error, sizeof error));
        assert_int_equal(*last[i].value, last[i].wanted);
    }
    config_free(c);
}

static void odd_but_right(void **state)
{
    char error[512] = "";
    struct config *c = read_text(*state,
                                 "[server]\nlocal_domains= a.example , ,b.example, \n"
                                 "[tls]\n required=no\n" /* a first key may be indented */
                                 "[domain b.example]\npam_service=b\n"
                                 "[domain a.example]\npam_service=a\n"
                                 "[domain b.example]\npam_service=c\n",
                                 error, sizeof error);
    assert_string_equal(error, "");
    assert_int_equal(c->server.local_domains.n, 2);
    assert_string_equal(c->server.local_domains.items[0], "a.example");
    assert_string_equal(c->server.local_domains.items[1], "b.example");
    assert_int_equal(c->auth.n_domains, 2);
    assert_string_equal(c->auth.domains[0].pam_service, "c");
    config_free(c);
    c = read_text(*state, " [tls]\n required=no\n", error, sizeof error);
    config_free(c);
}

/* A list that is set to nothing is not one that is not set. */
static void no_local_domains(void **state)
{
    char error[512] = "";
    struct config *c = read_text(*state, MINIMAL "[server]\nlocal_domains=\n", error, sizeof error);
    assert_string_equal(error, "");
    assert_int_equal(c->server.local_domains.n, 0);
    config_free(c);
}

static void first_fault_is_told(void **state)
{
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"[tls]\nrequired=perhaps\nrubbish\n", ":2: "},
        {MINIMAL "[server]\nlanguages=\n", "languages=: must be one of en, fr"},
        {MINIMAL "[domain a.example]\npam_service=a/b\n", "must be a file name"},
        {MINIMAL "[domain a.example]\npam_service=.a\n", "must be a file name"},
        {MINIMAL "[domain a.example]\npam_service=\n", "must be a file name"},
        {MINIMAL "[store]\nmax_message=99999999999999999999999\n", "max_message="},
        {MINIMAL "[store]\nmax_message=9999999999999999999K\n", "max_message="},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char error[512] = "";
        assert_null(read_text(*state, cases[i].text, error, sizeof error));
        if (!strstr(error, cases[i].said))
            fail_msg("no '%s' in: %s", cases[i].said, error);
    }
}

static void later_files_win(void **state)
{
    struct place *p = *state;
    char error[512] = "";
    char *more = base_format("%s/10-more.conf", p->more_dir);
    write_file(more, "[workers]\nidle_min=7\n");
    struct config *c =
        read_text(p, MINIMAL "[workers]\nidle_min=2\nidle_max=9\n", error, sizeof error);
    assert_string_equal(error, "");
    assert_int_equal(c->workers.idle_min, 7);
    assert_int_equal(c->workers.idle_max, 9);
    assert_string_equal(strrchr(config_where(c, "workers", "", "idle_min"), '/'),
                        "/10-more.conf:2");
    assert_string_equal(config_where(c, "workers", "", "landlock"), "built-in default");
    config_free(c);
    free(more);
}

static void refusals(void **state)
{
    static const struct {
        const char *text, *complaint; /* what must stand in the error */
    } cases[] = {
        {"[server]\nhostnmae=x\n", "poplar.conf:2: [server] hostnmae: no such key"},
        {"[serer]\nhostname=x\n", "poplar.conf:2: [serer]: no such section"},
        {"[server x]\nhostname=x\n", "[server x]: no such section"},
        {"[domain]\npam_service=x\n", "[domain]: no such section"},
        {"hostname=x\n", "poplar.conf:1: stands below no [section]"},
        {"[server]\nnonsense\n", "poplar.conf:2: neither [section] nor key=value"},
        {"[server]\nstop_grace=5x\n", "not a time such as"},
        {"[server]\nstop_grace=-5\n", "not a time such as"},
        {"[server]\nstop_grace=\n", "not a time such as"},
        {"[server]\nstop_grace=99999999999999999999s\n", "not a time such as"},
        {"[server]\nstop_grace=2h\n", "must be between 0 and 3600 seconds"},
        {"[workers]\nlayout_max_age=0\n", "layout_max_age=0: must be at least 1 second"},
        {"[workers]\nlayout_max_age=200000000000000d\n",
         "layout_max_age=200000000000000d: too large"},
        {"[store]\nquota_octets=9000000000G\n", "quota_octets=9000000000G: too large"},
        {"[server]\nstate_dir=here\n", "must be an absolute path"},
        {"[server]\nworker_user=\n", "must not be empty"},
        {"[store]\nmax_message=0\n", "must be between 1 and 1000000000 octets"},
        {"[store]\ncreate=maybe\n", "must be yes or no"},
        {"[tls]\nrequired=perhaps\n", "must be one of yes, not-on-loopback, no"},
        {"[tls]\ncertificate=/c\n", "certificate is set without key"},
        {"[tls]\ncertificate=c\n", "must be an absolute path"},
        {MINIMAL "[tls other]\ncertificate=/c\nkey=/k\n", "set certificate and key in [tls] first"},
        {MINIMAL "[tls a]\ncertificate=/c\nkey=/k\n[tls A]\nkey=/l\n",
         "poplar.conf:7: [tls A] and [tls a], at "},
        {MINIMAL "[domain B.test]\npam_service=b\n[domain b.test]\npam_service=c\n",
         "poplar.conf:4, differ only in case"},
        {MINIMAL "[workers]\nidle_min=9\nidle_max=3\n", "idle_min is larger than idle_max"},
        {MINIMAL "[store]\nexpire_after=23h\n", "expire_after is less than a day"},
        {MINIMAL "[auth]\npam_service=../x\n", "must be a file name, not a path"},
        {MINIMAL "[auth]\nmechanisms=plain, cram-md5\n",
         "[auth] mechanisms=cram-md5: must be one of plain, login, external, xoauth2, oauthbearer"},
        {MINIMAL "[auth]\nmechanisms=PLAIN\n", "mechanisms=PLAIN: must be one of"},
        {MINIMAL "[server]\nlanguages=en, de\n",
         "poplar.conf:4: [server] languages=de: must be one of en, fr"},
        {MINIMAL "[server]\nlanguages=\n", "[server] languages=: must be one of en, fr"},
        {MINIMAL "[server]\nlocal_domains=a.test b.test\n",
         "poplar.conf:4: [server] local_domains=a.test b.test: has a blank in it; put commas"},
        {MINIMAL "[delivery]\ntrusted=root postfix\n",
         "[delivery] trusted=root postfix: has a blank"},
        {MINIMAL "[delivery]\ntrusted=root;postfix\n",
         "[delivery] trusted=root;postfix: has a semicolon in it; put commas between names"},
        {MINIMAL "[server]\nlocal_domains=a.test, @b.test\n",
         "[server] local_domains=@b.test: must be a domain, which is what follows the @"},
        {"[domain @b.test]\npam_service=b\n",
         "[domain @b.test]: must be one domain, which is what follows the @"},
        {"[domain a.test b.test]\npam_service=b\n",
         "[domain a.test b.test]: must be one domain, which is what follows the @"},
        {MINIMAL "[server]\nhostname=my server\n", "hostname=my server: must be letters, digits"},
        {MINIMAL "[server]\nhostname=p\xc3\xb6p.example\n", "xn--"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char error[512] = "";
        assert_null(read_text(*state, cases[i].text, error, sizeof error));
        if (!strstr(error, cases[i].complaint))
            fail_msg("'%s' lacks '%s'", error, cases[i].complaint);
        assert_null(strchr(error, '\n'));
    }
}

/* inih cuts a section's name after 49 octets, and takes an indented line after it for more of the
 * setting before when that has the same key. */
static void names_of_sections(void **state)
{
    static const struct {
        const char *text, *complaint; /* of the last line */
    } cases[] = {
        {"[domain a.customer.of.a.provider.with.a.long.name.example.org]\npam_service=a/b\n",
         "poplar.conf:2: [domain a.customer.of.a.provider.with.a.long.name.example.org] "
         "pam_service"},
        {"[domain a.test]\n  pam_service=a\n  [domain b.test]\n  pam_service=b/c\n",
         "poplar.conf:3: begins with a blank, but what it would go on with is no list"},
        {"[server]\n  hostname=a\n  log_level=debug\n",
         "poplar.conf:3: begins with a blank, but what it would go on with is no list"},
        {"[delivery]\n  trusted=root\n  accept = any\n",
         "poplar.conf:3: begins with a blank, and so goes on with the list before"},
        {"[domain a.test]\n pam_service=a\n[domain b.test]\n pam_service=b/c\n",
         "poplar.conf:4: [domain b.test] pam_service=b/c"},
        {"[domain a.test]\npam_service=a\n[domain a.test]\n pam_service=b/c\n",
         "poplar.conf:4: [domain a.test] pam_service=b/c"},
        {"[domain \t b.test ]\npam_service=b/c\n",
         "poplar.conf:2: [domain b.test] pam_service=b/c"},
        {"[ server ]\nhostname=\n", "poplar.conf:2: [server] hostname=: must not be empty"},
        {"\xef\xbb\xbf[server]\nhostname=\n", "poplar.conf:2: [server] hostname=: must not"},
        {"[server\nhostname=x\n", "poplar.conf:1: neither [section] nor key=value"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char error[512] = "";
        assert_null(read_text(*state, cases[i].text, error, sizeof error));
        if (!strstr(error, cases[i].complaint))
            fail_msg("'%s' lacks '%s'", error, cases[i].complaint);
    }
}

/* With what begins as some key does, too: it is none without its "=". */
static void lists_go_on(void **state)
{
    static const char *const wanted[] = {"a.test", "hostname.test", "hostname", "log_to.test"};
    char error[512] = "";
    struct config *config = read_text(*state,
                                      MINIMAL "[server]\nlocal_domains=a.test,\n  hostname.test\n"
                                              "\thostname ,\n log_to.test\n",
                                      error, sizeof error);
    if (!config)
        fail_msg("%s", error);
    assert_int_equal(config->server.local_domains.n, ARRAY_SIZE(wanted));
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
        assert_string_equal(config->server.local_domains.items[i], wanted[i]);
    config_free(config);
}

/* A list may be long, but what a child cannot be told is refused here. */
static void long_values(void **state)
{
    char error[512] = "";
    for (size_t lines = 500; lines <= 5000; lines += 4500) {
        char *text = base_strdup(MINIMAL "[server]\nlocal_domains=");
        for (size_t i = 0; i < lines; i++) {
            char *longer = base_format("%sd%zu.customer.example.org\n  ", text, i);
            free(text);
            text = longer;
        }
        struct config *c = read_text(*state, text, error, sizeof error);
        if (lines == 500) {
            assert_string_equal(error, "");
            assert_int_equal(c->server.local_domains.n, 500);
        } else {
            assert_null(c);
            assert_non_null(strstr(error, "poplar.conf:4: [server] local_domains: longer than"));
        }
        config_free(c);
        free(text);
    }
}

static void long_line(void **state)
{
    char text[400] = "[server]\nhostname=", error[512] = "";
    memset(text + strlen(text), 'x', 300);
    assert_null(read_text(*state, text, error, sizeof error));
    assert_non_null(strstr(error, "poplar.conf:2: line longer than 198 octets"));
}

static void missing_file(void **state)
{
    struct place *p = *state;
    char error[512] = "";
    assert_null(configfile_read(p->file, error, sizeof error));
    assert_non_null(strstr(error, "poplar.conf: No such file"));
}

static void keys_can_be_walked(void **state)
{
    (void)state;
    struct config_key key;
    size_t n = 0;
    while (config_key(n, &key))
        n++;
    assert_true(n > 40);
    assert_string_equal(key.key, "pam_service");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults, make_place, remove_place),
        cmocka_unit_test_setup_teardown(values_and_units, make_place, remove_place),
        cmocka_unit_test(words),
        cmocka_unit_test_setup_teardown(odd_but_right, make_place, remove_place),
        cmocka_unit_test_setup_teardown(no_local_domains, make_place, remove_place),
        cmocka_unit_test_setup_teardown(first_fault_is_told, make_place, remove_place),
        cmocka_unit_test_setup_teardown(later_files_win, make_place, remove_place),
        cmocka_unit_test_setup_teardown(refusals, make_place, remove_place),
        cmocka_unit_test_setup_teardown(names_of_sections, make_place, remove_place),
        cmocka_unit_test_setup_teardown(lists_go_on, make_place, remove_place),
        cmocka_unit_test_setup_teardown(long_values, make_place, remove_place),
        cmocka_unit_test_setup_teardown(long_line, make_place, remove_place),
        cmocka_unit_test_setup_teardown(missing_file, make_place, remove_place),
        cmocka_unit_test(keys_can_be_walked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
