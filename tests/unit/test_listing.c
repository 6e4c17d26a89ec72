/*
 * test_listing.c - groups of messages packed for listings say what the rows say, whatever was done
 * to the maildrop; and where they do not, it is the rows that are believed.
 */
#include "one_drop.h"

#include "between.h"
#include "store/backup.h"
#include "store/check.h"
#include "store/listing.h"
#include "store/manage.h"
#include "store/schema.h"
#include <stdlib.h>

enum { MESSAGES = 3 * LISTING_SPAN + 50 };

/* Sizes and UIDLs of all kinds; every fifth has a header that needs a surrogate. */
static void fill(struct maildrop *m, int n)
{
    static char text[20000];
    static int made;

    memset(text, 'x', sizeof(text));
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    for (int i = 0; i < n; i++) {
        char uidl[MAILDROP_UIDL_MAX + 1];
        const int length = 1 + (i * 7) % MAILDROP_UIDL_MAX;
        struct maildrop_delivery delivery = {.utf8_headers = true, .received = i % 2 ? 1000000 : 0};
        struct test_text from = {.octets = text, .size = (size_t)(i * 211) % sizeof(text)};

        snprintf(uidl, sizeof(uidl), "%0*d", length, made++);
        if (i % 3 == 0 && length > 4)
            delivery.uidl = uidl;
        if (i % 5 == 0)
            from = (struct test_text){.octets = "Subject: \xc3\xa9\n\nbody\n", .size = 18};
        from.step = sizeof(text);
        assert_int_equal(maildrop_deliver(m, &delivery, test_text_read, &from, NULL), STORE_OK);
    }
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
}

static int64_t ask(struct maildrop *m, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    int64_t number = -1;

    assert_int_equal(sqlite3_prepare_v2(m->db, sql, -1, &statement, NULL), SQLITE_OK);
    if (sqlite3_step(statement) == SQLITE_ROW)
        number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

static int64_t groups(struct maildrop *m)
{
    return ask(m, "SELECT count(*) FROM listing");
}

/* The list is that of the rows, by each way to it. */
static void expect_rows(struct maildrop *m)
{
    struct maildrop_snapshot *snapshot = test_snapshot(m);
    struct maildrop_walk walk = maildrop_snapshot_walk(snapshot);
    const struct maildrop_entry *entry;
    sqlite3_stmt *rows = NULL;
    size_t n = 0;

    assert_int_equal(sqlite3_prepare_v2(m->db,
                                        "SELECT id, size, plain_size, form, uidl FROM message"
                                        " WHERE deleted IS NULL ORDER BY id",
                                        -1, &rows, NULL),
                     SQLITE_OK);
    for (; sqlite3_step(rows) == SQLITE_ROW; n++) {
        struct maildrop_entry found;
        char uidl[MAILDROP_UIDL_MAX + 1];

        assert_non_null(entry = maildrop_walk_next(&walk));
        found = maildrop_snapshot_entry(snapshot, n);
        assert_int_equal(found.id, entry->id);
        assert_int_equal(entry->id, sqlite3_column_int64(rows, 0));
        assert_int_equal(entry->size, sqlite3_column_int64(rows, 1));
        assert_int_equal(entry->plain_size, sqlite3_column_int64(rows, 2));
        assert_int_equal(entry->form, sqlite3_column_int(rows, 3));
        maildrop_entry_uidl(entry, uidl);
        assert_string_equal(uidl, (const char *)sqlite3_column_text(rows, 4));
        assert_string_equal(uidl, test_uidl(snapshot, n));
        assert_int_equal(maildrop_snapshot_position(snapshot, entry->id), n + 1);
        assert_true(is_between(maildrop_snapshot_position(snapshot, entry->id - 1), 0, n));
    }
    sqlite3_finalize(rows);
    assert_null(maildrop_walk_next(&walk));
    assert_int_equal(maildrop_snapshot_count(snapshot), n);
    assert_int_equal(maildrop_snapshot_position(snapshot, INT64_MAX), n);
    assert_int_equal(maildrop_snapshot_position(snapshot, 0), 0);
    assert_int_equal(maildrop_snapshot_totals(snapshot).octets, test_totals(m).octets);
    maildrop_snapshot_free(snapshot);
}

static bool take_damage(void *context, const char *damage, uint64_t octets)
{
    char *said = context;

    (void)octets;
    if (damage && !*said)
        snprintf(said, 300, "%s", damage);
    return true;
}

static void expect_sound(struct maildrop *m)
{
    char said[300] = "";

    assert_int_equal(check_run(m, take_damage, said), STORE_OK);
    assert_string_equal(said, "");
    expect_rows(m);
}

static void delete (struct maildrop *m, int64_t from, int64_t to, uint64_t undelete_for)
{
    static int64_t ids[MESSAGES];
    size_t n = 0;

    for (; from <= to; from++)
        ids[n++] = from;
    assert_int_equal(maildrop_commit(m, NULL, 0, ids, n, undelete_for), STORE_OK);
}

/* By delivery, one by one and in batches. */
static void test_groups_are_made(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    fill(m, LISTING_SPAN - 2);
    assert_int_equal(groups(m), 0);
    expect_sound(m);
    assert_int_equal(test_deliver_text(m, "the last of the first\n"), STORE_OK);
    assert_int_equal(groups(m), 1);
    expect_sound(m);
    fill(m, MESSAGES - LISTING_SPAN);
    assert_int_equal(groups(m), 3);
    expect_sound(m);
    maildrop_close(m);
}

/* UIDLs of the store's own making are eight octets, not their text of 20 and more. */
static void test_groups_are_small(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    for (int i = 1; i < LISTING_SPAN; i++)
        assert_int_equal(test_deliver_text(m, "body\n"), STORE_OK);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    int64_t longest = ask(m, "SELECT max(length(entries)) FROM listing");
    assert_true(longest > 0 && longest <= LISTING_SPAN * 11);
    expect_sound(m);
    maildrop_close(m);
}

static void test_groups_follow(void **state)
{
    const int64_t back[] = {5, 300, 200};
    struct maildrop *m = test_drop_open(&drop);
    uint64_t removed;

    (void)state;
    fill(m, MESSAGES);
    delete (m, 3, 6, 1000);
    delete (m, 120, 310, 1000);
    expect_sound(m);
    assert_int_equal(groups(m), 3);
    assert_int_equal(manage_undelete(m, back, 3), STORE_OK);
    expect_sound(m);
    delete (m, 5, 5, 0); /* and all that was deleted before is gone for good */
    assert_int_equal(groups(m), 3);
    expect_sound(m);
    delete (m, 200, 200, 0);
    assert_int_equal(groups(m), 2); /* the one in the middle is empty */
    expect_sound(m);
    assert_int_equal(maildrop_expire(m, 10000, 1000, &removed), STORE_OK);
    assert_true(removed > LISTING_SPAN / 2);
    expect_sound(m);
    assert_false(m->groups_astray); /* which would be sound as well, and slow */
    maildrop_close(m);
}

/* A session's list ends where it ended at login, also in the middle of a group. */
static void test_ends_with_the_session(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *snapshot = NULL;
    struct maildrop_totals totals;

    (void)state;
    fill(m, LISTING_SPAN + 10);
    totals = test_totals(m);
    fill(m, 2 * LISTING_SPAN);
    assert_int_equal(maildrop_snapshot(m, &totals, &snapshot), STORE_OK);
    assert_int_equal(maildrop_snapshot_count(snapshot), LISTING_SPAN + 10);
    assert_int_equal(maildrop_snapshot_totals(snapshot).last_id, totals.last_id);
    assert_int_equal(maildrop_snapshot_totals(snapshot).plain_octets, totals.plain_octets);
    maildrop_snapshot_free(snapshot);
    totals = (struct maildrop_totals){.last_id = 0};
    assert_int_equal(maildrop_snapshot(m, &totals, &snapshot), STORE_OK);
    assert_int_equal(maildrop_snapshot_count(snapshot), 0);
    assert_null(maildrop_walk_next(&(struct maildrop_walk){.snapshot = snapshot}));
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
}

/* As a program of minor version 2 deletes, by itself: it leaves the groups as they are. */
static void delete_as_before(struct maildrop *m, int64_t from, int64_t to, uint64_t undelete_for)
{
    assert_int_equal(
        sqlite3_exec(m->db, "CREATE TABLE kept AS SELECT * FROM listing", NULL, NULL, NULL),
        SQLITE_OK);
    delete (m, from, to, undelete_for);
    assert_int_equal(sqlite3_exec(m->db,
                                  "DELETE FROM listing; INSERT INTO listing SELECT * FROM kept;"
                                  "DROP TABLE kept",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
}

/* Made for what an older program left. Where one wrote since, they are not believed, which is no
 * damage; whoever changes something after that makes them anew. */
static void test_older_programs(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    fill(m, MESSAGES);
    delete (m, 40, 60, 1000);
    maildrop_close(m);
    test_outside(&drop, "DROP TABLE listing; PRAGMA user_version=65538");
    m = test_drop_open(&drop);
    assert_int_equal(m->minor, SCHEMA_MINOR);
    assert_int_equal(groups(m), 3);
    expect_sound(m);
    m->minor = 2;
    assert_int_equal(handle_begin_write(m), STORE_OK); /* where it learns of the new version */
    assert_int_equal(handle_end_write(m, STORE_OK), STORE_OK);
    assert_int_equal(m->minor, SCHEMA_MINOR);
    maildrop_close(m);
    m = test_drop_open(&drop);
    delete_as_before(m, 100, 100, 1000);
    delete_as_before(m, LISTING_SPAN, 2 * LISTING_SPAN - 1, 0); /* gone for good */
    expect_sound(m);
    assert_true(m->groups_astray);
    assert_int_equal(groups(m), 3);
    delete (m, 300, 300, 1000);
    expect_sound(m);
    assert_false(m->groups_astray);
    assert_int_equal(groups(m), 2);
    maildrop_close(m);
}

static void test_damage(void **state)
{
    static const struct {
        const char *sql, *found;
    } damages[] = {
        {"UPDATE listing SET entries = x'' WHERE first = 128", "listing: the group of message 128"},
        {"UPDATE listing SET entries = x'ff' || entries WHERE first = 0",
         "listing: the group of message 0"},
        {"UPDATE listing SET entries = (SELECT entries FROM listing WHERE first = 0)"
         " WHERE first = 128",
         "listing: the group of message 128"},
        {"UPDATE listing SET first = 64 WHERE first = 0", "listing: no group begins with message"},
        {"UPDATE listing SET first = 384 WHERE first = 0", "listing: no group begins with message"},
        {"UPDATE listing SET first = -128 WHERE first = 0",
         "listing: no group begins with message"},
        {"DROP TABLE listing", "schema: a table is missing"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        char said[300] = "";
        struct maildrop *m;

        make_drop(NULL);
        m = test_drop_open(&drop);
        fill(m, 2 * LISTING_SPAN + 5);
        sqlite3_db_config(m->db, SQLITE_DBCONFIG_DEFENSIVE, 0, NULL);
        assert_int_equal(sqlite3_exec(m->db, damages[i].sql, NULL, NULL, NULL), SQLITE_OK);
        expect_rows(m);
        assert_int_equal(check_run(m, take_damage, said), STORE_OK);
        if (strncmp(said, damages[i].found, strlen(damages[i].found)) != 0)
            fail_msg("%s: said %s", damages[i].sql, said);
        maildrop_close(m);
        remove_drop(NULL);
    }
}

/* Every change of one octet shows, and no octets at all lead out of them. */
static void test_any_octets(void **state)
{
    static unsigned char group[LISTING_GROUP_MAX];
    struct maildrop *m = test_drop_open(&drop);
    size_t size = 0;
    uint64_t random = 1;

    (void)state;
    fill(m, LISTING_SPAN);
    assert_int_equal(listing_make(m, 0, group, &size), STORE_OK);
    for (size_t i = 0; i < size; i++) {
        size_t whole = size;

        group[i] = (unsigned char)(group[i] ^ 1U << i % 8);
        assert_false(listing_sound(0, group, &whole));
        group[i] = (unsigned char)(group[i] ^ 1U << i % 8);
    }
    for (int i = 0; i < 100000; i++) {
        const size_t length = (size_t)i % 60;
        unsigned char *octets = malloc(length + LISTING_SLACK); /* so that a sanitizer sees */
        const unsigned char *at = octets;
        struct maildrop_entry entry = {.id = -1};

        for (size_t k = 0; k < length + LISTING_SLACK; k++)
            octets[k] = (unsigned char)((random = random * 6364136223846793005U + 1) >> 56);
        *octets &= 31;
        if (listing_take(&at, octets + length, &entry)) {
            char uidl[MAILDROP_UIDL_MAX + 1];

            assert_true(at > octets && at <= octets + length && entry.id >= 0);
            assert_true(is_between(maildrop_entry_uidl(&entry, uidl), 1, MAILDROP_UIDL_MAX));
        }
        free(octets);
    }
    maildrop_close(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_groups_are_made, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_groups_are_small, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_groups_follow, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_ends_with_the_session, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_older_programs, make_drop, remove_drop),
        cmocka_unit_test(test_damage),
        cmocka_unit_test_setup_teardown(test_any_octets, make_drop, remove_drop),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
