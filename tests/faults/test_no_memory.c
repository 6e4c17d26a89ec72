/*
 * test_no_memory.c - the nth allocation fails, once and from then on, over a whole POP3 session and
 * a delivery by LMTP: the session may end, but in order, with nothing lost, done in part or leaked.
 * (Without LONG=1 in the environment, not every one of the later allocations.)
 */
#include "store/handle.h"
#include "store/lock.h"
#include "tests/faults/disk.h"
#include "tests/faults/memory.h"
#include "tests/faults/witness.h"
#include "tests/support/inside.h"
#include <errno.h>

static struct inside_result result;
static struct witness before, now;
static struct test_drop drop;

static const struct inside_world client = {.door = DOOR_POP3, .peer = "192.0.2.1:1024"};
static const struct inside_world tls_client = {.door = DOOR_POP3S, .peer = "192.0.2.1:1024"};
static const struct inside_world sender = {.door = DOOR_LMTP, .peer = "uid 0"};

static const char session[] =
    "CAPA\r\nUSER alice\r\nPASS secret\r\nSTAT\r\nLIST\r\nUIDL\r\nTOP 1 3\r\n"
    "RETR 1\r\nRETR 2\r\nLAST\r\nDELE 1\r\nDELE 3\r\nQUIT\r\n";
static char *delivery; /* a dialogue with a large message whose header is in UTF-8 */

static void look_again(const char *what)
{
    struct maildrop *m = NULL;
    enum store_outcome outcome = test_drop_try(&drop, &m);

    if (outcome != STORE_OK)
        fail_msg("%s: then the maildrop opens no more: %s", what, maildrop_error(NULL));
    if ((outcome = witness_look(m, &now)) != STORE_OK || !witness_check(m))
        fail_msg("%s: then it is not sound: %s", what, maildrop_error(m));
    maildrop_close(m);
}

/* Serve with the nth allocation failing; whether it was met. */
static bool serve(const struct inside_world *world, const char *said, unsigned nth, bool for_ever,
                  const char *what)
{
    const struct disk_fault fault = {DISK_MEMORY, nth, for_ever, ENOMEM};
    const int live = memory_live();

    inside_restore();
    memory_pause(true); /* until the world is made */
    disk_fail(nth > 0 ? &fault : NULL);
    inside_serve(world, said, strlen(said), &result);
    disk_fail(NULL);
    memory_pause(false);
    /* OpenSSL keeps things for the thread, and for the next time. */
    if (memory_live() > live && world->door != DOOR_POP3S)
        fail_msg("%s: %d blocks leaked", what, memory_live() - live);
    look_again(what);
    return disk_failed();
}

static bool all_there(size_t from)
{
    for (size_t i = 0; i < from; i++)
        if (i >= now.n || now.messages[i].id != before.messages[i].id ||
            now.messages[i].digest != before.messages[i].digest)
            return false;
    return true;
}

static bool try_session_of(const struct inside_world *world, unsigned nth, bool for_ever)
{
    char what[100];
    bool met;

    snprintf(what, sizeof(what), "session%s, allocation %u%s",
             world->door == DOOR_POP3S ? " with TLS" : "", nth, for_ever ? " and later" : "");
    met = serve(world, session, nth, for_ever, what);
    if (result.end == END_QUIT && strncmp(inside_last_line(&result), "+OK", 3) == 0 &&
        result.deleted == 2) {
        if (now.n != before.n - 2 || now.messages[0].id != before.messages[1].id)
            fail_msg("%s: QUIT was acknowledged, %zu messages of %zu are there", what, now.n,
                     before.n);
    } else if (now.n != before.n || !all_there(before.n)) {
        fail_msg("%s: %zu messages of %zu without an acknowledgement", what, now.n, before.n);
    }
    if (!met && result.deleted != 2)
        fail_msg("%s: failed by itself: %s", what, result.output);
    return met;
}

static bool try_session(unsigned nth, bool for_ever)
{
    return try_session_of(&client, nth, for_ever);
}

static bool try_tls_session(unsigned nth, bool for_ever)
{
    return try_session_of(&tls_client, nth, for_ever);
}

static bool try_delivery(unsigned nth, bool for_ever)
{
    char what[100];
    bool met, taken;

    snprintf(what, sizeof(what), "delivery, allocation %u%s", nth, for_ever ? " and later" : "");
    met = serve(&sender, delivery, nth, for_ever, what);
    taken = strstr(result.output, "\r\n250 2.1.5 ") && strstr(result.output, "\r\n250 2.0.0 ") &&
            !strstr(result.output, "\r\n451 ") && !strstr(result.output, "\r\n452 ");
    if (now.n != before.n + taken || !all_there(before.n))
        fail_msg("%s: %zu messages after %zu, and this was said: %s", what, now.n, before.n,
                 result.output);
    if (!met && !taken)
        fail_msg("%s: failed by itself: %s", what, result.output);
    return met;
}

static void try_all(bool (*try)(unsigned nth, bool for_ever))
{
    const char *long_run = getenv("LONG");
    const bool all = long_run && strcmp(long_run, "1") == 0;
    unsigned tried = 0;

    for (int for_ever = 0; for_ever < 2; for_ever++) {
        unsigned nth = 1;

        for (; try(nth, for_ever); nth += 1 + (all ? 0 : nth / 40))
            tried++;
        assert_true(nth > 20);
    }
    printf("%u allocations failed\n", tried);
}

static void test_session(void **state)
{
    (void)state;
    try_all(try_session);
}

static void test_tls_session(void **state)
{
    (void)state;
    /* Once without a failure: what OpenSSL makes for all sessions is made then. */
    try_session_of(&tls_client, 0, false);
    try_all(try_tls_session);
}

static void test_delivery(void **state)
{
    (void)state;
    try_all(try_delivery);
}

/* What may be asked of a maildrop: no lack of memory is taken for damage, or for an answer. */

static enum store_outcome list_session(struct maildrop *m)
{
    struct maildrop_totals totals;
    struct maildrop_snapshot *snapshot = NULL;
    enum store_outcome outcome = maildrop_totals(m, &totals);

    if (outcome == STORE_OK)
        outcome = maildrop_snapshot(m, &totals, &snapshot);
    if (outcome == STORE_OK && maildrop_snapshot_count(snapshot) != totals.messages)
        outcome = STORE_DAMAGED;
    maildrop_snapshot_free(snapshot);
    return outcome;
}

static enum store_outcome list_all(struct maildrop *m)
{
    struct maildrop_message message = {.id = 0};
    enum store_outcome outcome;
    unsigned n = 0;

    while ((outcome = maildrop_next(m, message.id, &message)) == STORE_OK)
        n++;
    return outcome == STORE_END ? (n == 3 ? STORE_OK : STORE_DAMAGED) : outcome;
}

static enum store_outcome quit(struct maildrop *m)
{
    return maildrop_commit(m, (int64_t[]){1, 2}, 2, NULL, 0, 0); /* as often as one likes */
}

static bool ask(const struct test_drop *asked, enum store_outcome (*question)(struct maildrop *m),
                unsigned nth)
{
    const struct disk_fault fault = {DISK_MEMORY, nth, false, ENOMEM};
    struct maildrop *m;
    char lock[80];
    int other;

    memory_pause(true);
    m = test_drop_open(asked);
    memory_pause(false);
    disk_fail(&fault);
    const enum store_outcome outcome = question(m);
    const bool met = disk_failed();
    disk_fail(NULL);
    if (outcome != STORE_OK && (outcome != STORE_MEMORY || !met))
        fail_msg("allocation %u: %s: %s", nth, maildrop_outcome_name(outcome), maildrop_error(m));
    assert_true(sqlite3_get_autocommit(m->db));
    test_drop_path(asked, MAILDROP_LOCK, lock);
    other = open(lock, O_RDWR | O_CLOEXEC);
    assert_int_equal(lock_acquire(other, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    close(other);
    maildrop_close(m);
    return met;
}

static void test_no_lack_is_damage(void **state)
{
    static enum store_outcome (*const questions[])(struct maildrop * m) = {list_session, list_all,
                                                                           quit};
    struct test_drop asked;

    (void)state;
    for (int old = 0; old < 2; old++) {
        struct maildrop *m;

        test_drop_make(&asked);
        m = test_drop_open(&asked);
        for (int i = 0; i < 3; i++)
            assert_int_equal(test_deliver_text(m, "Subject: one\n\nbody\n"), STORE_OK);
        maildrop_close(m);
        if (old)
            test_outside(&asked, TEST_VERSION_1_0);
        for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++) {
            unsigned nth = 1;

            while (ask(&asked, questions[i], nth))
                nth++;
            assert_true(nth > 5);
        }
        test_drop_remove(&asked);
    }
}

static int enter(void **state)
{
    static const char utf8[] =
        "Subject: h\xc3\xa9\r\nFrom: h\xc3\xa9 <a@example.org>\r\n\r\nbody\r\n";
    char *text = witness_text(1, 150000);

    (void)state;
    inside_begin((const char *[]){"tls.required=no", "store.undelete_for=0", NULL});
    snprintf(drop.folder, sizeof(drop.folder), "%s", inside_folder());
    inside_certify();
    inside_deliver(text, strlen(text));
    inside_deliver(utf8, sizeof(utf8) - 1);
    inside_deliver("three\n", 6);
    inside_deliver("four\n", 5);
    inside_keep();
    delivery = malloc(strlen(text) + 1000);
    sprintf(delivery,
            "LHLO example.org\r\nMAIL FROM:<bob@example.org> SMTPUTF8\r\nRCPT TO:<alice>\r\n"
            "DATA\r\n%.*s%s.\r\nQUIT\r\n",
            (int)sizeof(utf8) - 7, utf8, text);
    free(text);
    disk_install();
    look_again("at first");
    before = now;
    return 0;
}

static int leave(void **state)
{
    (void)state;
    inside_finish();
    free(delivery);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session),
        cmocka_unit_test(test_tls_session),
        cmocka_unit_test(test_delivery),
        cmocka_unit_test(test_no_lack_is_damage),
    };

    test_be_outside(argc, argv);

    inside_acts = memory_pause;
    if (!memory_install())
        return 1;
    return cmocka_run_group_tests(tests, enter, leave);
}
