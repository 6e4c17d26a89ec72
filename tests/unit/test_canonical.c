/*
 * test_canonical.c - names in, maildrops out: auth/canonical.c as a table, and the uid rules on
 * accounts that every Debian has.
 */
#include "auth/canonical.h"
#include "tests/support/place.h"

#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Local domains example.org and localhost, virtual domain virt.example with its own service. */
static struct config *configure(const char *username, const char *strip)
{
    struct config *config = config_new();
    must_set(config, "server", "", "local_domains", "Example.org, localhost");
    must_set(config, "domain", "Virt.example", "pam_service", "virtual");
    must_set(config, "auth", "", "username", username);
    must_set(config, "auth", "", "strip_domain", strip);
    return config;
}

struct fold_case {
    const char *username, *strip, *given, *name, *service; /* name NULL: malformed */
};

static const struct fold_case fold_cases[] = {
    {"lowercase", "local", "alice", "alice", "poplar"},
    {"lowercase", "local", "ALice", "alice", "poplar"},
    {"lowercase", "local", "ABYZ[`{", "abyz[`{", "poplar"},
    {"lowercase", "local", "\xc3\x89ve", "\xc3\x89ve", "poplar"},
    {"lowercase", "local", "alice@EXAMPLE.ORG", "alice", "poplar"},
    {"lowercase", "local", "alice@localhost", "alice", "poplar"},
    {"lowercase", "local", "alice@example.org.evil", "alice@example.org.evil", "poplar"},
    {"lowercase", "local", "alice@example.orgx", "alice@example.orgx", "poplar"},
    {"lowercase", "local", "alice@example.or", "alice@example.or", "poplar"},
    {"lowercase", "local", "a@b@localhost", "a@b", "poplar"},
    {"lowercase", "local", "alice@localhost@Example.org", "alice", "poplar"},
    {"lowercase", "always", "a@b@c", "a", "poplar"},
    {"lowercase", "local", "Alice@VIRT.Example", "alice@virt.example", "virtual"},
    {"lowercase", "local", "alice@VIRT.example@localhost", "alice@virt.example", "virtual"},
    {"keep", "local", "ALice@VIRT.example@localhost", "ALice@virt.example", "virtual"},
    {"lowercase", "always", "alice@anything", "alice", "poplar"},
    {"lowercase", "always", "alice@virt.example", "alice@virt.example", "virtual"},
    {"lowercase", "never", "alice@localhost", "alice@localhost", "poplar"},
    {"lowercase", "local", "Alice@Sub.Example.org", "alice@sub.example.org", "poplar"},
    {"lowercase", "always", "Alice@Sub.Example.org", "alice", "poplar"},
    {"lowercase", "local", "EXAMPLE\\ALice", "example\\alice", "poplar"},
    {"lowercase", "local", "EXAMPLE\\ALice@localhost", "example\\alice", "poplar"},
    {"keep", "local", "EXAMPLE\\ALice", "EXAMPLE\\ALice", "poplar"},
    {"keep", "local", "ALice", "ALice", "poplar"},
    {"keep", "local", "ALice@Localhost", "ALice", "poplar"},
    {"keep", "local", "ALice@Elsewhere.NET", "ALice@Elsewhere.NET", "poplar"},
    {"keep", "local", "ALice@VIRT.Example", "ALice@virt.example", "virtual"},
    {"lowercase", "local", "%u%{home}", "%u%{home}", "poplar"},
    {"lowercase", "local", "' OR 1=1--", "' or 1=1--", "poplar"},
    {"lowercase", "local", "*)(uid=*", "*)(uid=*", "poplar"},
    {"lowercase", "local", ".hidden", ".hidden", "poplar"},
    {"lowercase", "local", "", NULL, NULL},
    {"lowercase", "local", ".", NULL, NULL},
    {"lowercase", "local", "..", NULL, NULL},
    {"lowercase", "local", "..@localhost", NULL, NULL},
    {"lowercase", "local", " ", NULL, NULL},
    {"lowercase", "local", "  @localhost", NULL, NULL},
    {"lowercase", "local", "@localhost", NULL, NULL},
    {"lowercase", "local", ".@localhost@localhost", NULL, NULL},
    {"lowercase", "local", "@localhost@localhost", NULL, NULL},
    {"lowercase", "local", "@virt.example", NULL, NULL},
    {"lowercase", "never", "@nowhere", NULL, NULL},
    {"lowercase", "local", "../../etc/x", NULL, NULL},
    {"lowercase", "local", "a/b", NULL, NULL},
    {"lowercase", "local", "a\tb", NULL, NULL},
    {"lowercase", "local", "a\nb", NULL, NULL},
    {"lowercase", "local", "a\x7f", NULL, NULL},
    {"lowercase", "local", "\x01", NULL, NULL},
};

static void test_fold(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(fold_cases); i++) {
        const struct fold_case *c = &fold_cases[i];
        struct config *config = configure(c->username, c->strip);
        char name[PROTO_USER_MAX + 1] = "untouched";
        const char *service = "untouched";
        enum canonical_outcome outcome = canonical_fold(config, c->given, name, &service);
        if (c->name && outcome != CANONICAL_OK)
            fail_msg("%s: refused", c->given);
        if (!c->name && outcome != CANONICAL_MALFORMED)
            fail_msg("%s: accepted as %s", c->given, name);
        assert_string_equal(name, c->name ? c->name : "untouched");
        assert_string_equal(service, c->service ? c->service : "untouched");
        config_free(config);
    }
}

static void test_fold_length(void **state)
{
    (void)state;
    struct config *config = configure("lowercase", "local");
    char given[PROTO_USER_MAX + 2], name[PROTO_USER_MAX + 1];
    const char *service;
    memset(given, 'a', sizeof given);
    given[PROTO_USER_MAX] = '\0';
    assert_int_equal(canonical_fold(config, given, name, &service), CANONICAL_OK);
    assert_string_equal(name, given);
    given[PROTO_USER_MAX] = 'a';
    given[PROTO_USER_MAX + 1] = '\0';
    assert_int_equal(canonical_fold(config, given, name, &service), CANONICAL_MALFORMED);
    config_free(config);
}

struct finish_case {
    const char *canonical, *require_nss, *first_uid, *pam_user;
    enum canonical_outcome outcome;
    const char *name;
};

/* daemon has uid 1 and nobody 65534 wherever base-passwd or its likes made the accounts. */
static const struct finish_case finish_cases[] = {
    {"nss", "yes", "1", "daemon", CANONICAL_OK, "daemon"},
    {"nss", "yes", "1", "DAEMON@localhost", CANONICAL_OK, "daemon"},
    {"nss", "yes", "2", "daemon", CANONICAL_REFUSED, NULL},
    {"nss", "yes", "1", "root", CANONICAL_REFUSED, NULL},
    {"nss", "yes", "1", "Root", CANONICAL_REFUSED, NULL},
    {"nss", "yes", "1", "nobody", CANONICAL_REFUSED, NULL},
    {"nss", "yes", "1", "no-such-account", CANONICAL_UNKNOWN, NULL},
    {"nss", "no", "1", "no-such-account", CANONICAL_UNKNOWN, NULL},
    {"pam", "yes", "1", "no-such-account", CANONICAL_UNKNOWN, NULL},
    {"pam", "no", "1", "no-such-account", CANONICAL_OK, "no-such-account"},
    {"pam", "no", "1", "x@virt.example", CANONICAL_OK, "x@virt.example"},
    {"pam", "no", "1", "daemon", CANONICAL_OK, "daemon"},
    {"pam", "no", "1", "root", CANONICAL_REFUSED, NULL},
    {"pam", "no", "2", "daemon", CANONICAL_REFUSED, NULL},
    {"pam", "no", "1", "../daemon", CANONICAL_MALFORMED, NULL},
    {"pam", "no", "1", "", CANONICAL_MALFORMED, NULL},
};

static void test_finish(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(finish_cases); i++) {
        const struct finish_case *c = &finish_cases[i];
        struct config *config = configure("lowercase", "local");
        must_set(config, "auth", "", "canonical", c->canonical);
        must_set(config, "auth", "", "require_nss", c->require_nss);
        must_set(config, "auth", "", "first_uid", c->first_uid);
        char name[PROTO_USER_MAX + 1] = "untouched";
        enum canonical_outcome outcome = canonical_finish(config, c->pam_user, name);
        if (outcome != c->outcome)
            fail_msg("%s (%s): outcome %d, not %d", c->pam_user, c->canonical, outcome, c->outcome);
        assert_string_equal(name, c->name ? c->name : "untouched");
        config_free(config);
    }
}

/* Addresses and what is left of them without their detail; NULL: they have none. */
static void test_detail(void **state)
{
    static const struct {
        const char *delimiters, *given, *shorter;
    } cases[] = {
        {"+", "alice+lists", "alice"},
        {"+", "alice+a+b@example.org", "alice@example.org"},
        {"+", "alice+@example.org", "alice@example.org"},
        {"+", "alice@example.org", NULL},
        {"+", "alice@ex+ample.org", NULL},
        {"+", "+alice@example.org", NULL},
        {"+", "+", NULL},
        {"+", "", NULL},
        {"+", "alice-x", NULL},
        {"+, -", "alice-x+y", "alice"},
        {"+-", "alice+x-y", "alice"},
        {"+", "a+b@c@example.org", "a@example.org"},
        {"", "alice+lists", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char shorter[PROTO_RECIPIENT_MAX + 1];
        struct config *config = configure("lowercase", "local");
        must_set(config, "delivery", "", "recipient_delimiter", cases[i].delimiters);
        bool has = canonical_without_detail(config, cases[i].given, shorter);
        if (has != (cases[i].shorter != NULL) || (has && strcmp(shorter, cases[i].shorter) != 0))
            fail_msg("'%s' without a detail of '%s'", cases[i].given, cases[i].delimiters);
        config_free(config);
    }
}

/* For delivery: the account's name and uid, or what a maildrop without an account would be. */
static void test_account(void **state)
{
    char name[PROTO_USER_MAX + 1];
    uid_t uid = 0;
    struct config *config = configure("lowercase", "local");
    const struct passwd *daemon = getpwnam("daemon");
    (void)state;
    must_set(config, "auth", "", "first_uid", "1");
    assert_int_equal(canonical_account(config, "Daemon@LOCALHOST", name, &uid), CANONICAL_OK);
    assert_string_equal(name, "daemon");
    assert_int_equal(uid, daemon->pw_uid);
    assert_int_equal(canonical_account(config, "Nobody-Here@x.net", name, &uid), CANONICAL_UNKNOWN);
    assert_string_equal(name, "nobody-here@x.net");
    assert_int_equal(canonical_account(config, "root", name, &uid), CANONICAL_REFUSED);
    assert_int_equal(canonical_account(config, "a/b", name, &uid), CANONICAL_MALFORMED);
    /* By its very name: rules are not asked. */
    assert_int_equal(canonical_uid("root", &uid), CANONICAL_OK);
    assert_int_equal(uid, 0);
    assert_int_equal(canonical_uid("nobody-here", &uid), CANONICAL_UNKNOWN);
    config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fold),    cmocka_unit_test(test_fold_length),
        cmocka_unit_test(test_finish),  cmocka_unit_test(test_detail),
        cmocka_unit_test(test_account),
    };
    return cmocka_run_group_tests_name("canonical", tests, NULL, NULL);
}
