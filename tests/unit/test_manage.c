/*
 * test_manage.c - a maildrop's own settings, messages brought back, room given back, notes on what
 * was imported, and a maildrop of an older minor version.
 */
#include "store/check.h"
#include "store/handle.h"
#include "store/manage.h"
#include "store/schema.h"
#include "tests/unit/one_drop.h"

static int enter(void **state)
{
    (void)state;
    test_drop_make(&drop);
    return maildrop_library_init(false) == STORE_OK ? 0 : -1;
}

static struct manage_state look(struct maildrop *m)
{
    struct manage_state state = {.minor = -1};

    assert_int_equal(manage_look(m, &state), STORE_OK);
    return state;
}

static void test_own_quota_goes_first(void **state)
{
    const struct maildrop_delivery tight = {.quota_octets = 1, .quota_messages = 1};
    const uint64_t two = 2, none = 0;
    struct test_text text = {.octets = "one\n", .size = 4};
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(maildrop_deliver(m, &tight, test_text_read, &text, NULL), STORE_OVER_QUOTA);
    assert_int_equal(manage_set(m, MAILDROP_QUOTA_OCTETS, &none), STORE_OK);
    assert_int_equal(manage_set(m, MAILDROP_QUOTA_MESSAGES, &two), STORE_OK);
    for (int i = 0; i < 3; i++) {
        text.position = 0;
        assert_int_equal(maildrop_deliver(m, &tight, test_text_read, &text, NULL),
                         i < 2 ? STORE_OK : STORE_OVER_QUOTA);
    }
    assert_true(look(m).has_quota_messages && look(m).quota_messages == 2);
    assert_true(look(m).has_quota_octets && look(m).quota_octets == 0);

    text.position = 0;
    assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){.no_limits = true},
                                      test_text_read, &text, NULL),
                     STORE_OK);
    assert_int_equal(manage_set(m, MAILDROP_QUOTA_MESSAGES, NULL), STORE_OK);
    assert_false(look(m).has_quota_messages);
    assert_int_equal(test_deliver_text(m, "no limit of its own any more\n"), STORE_OK);
    maildrop_close(m);
}

static void test_undelete(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *before, *after;
    int64_t ids[3];

    (void)state;
    for (int i = 0; i < 3; i++)
        assert_int_equal(test_deliver(m, "text\n", 5, &ids[i]), STORE_OK);
    before = test_snapshot(m);
    assert_int_equal(maildrop_commit(m, NULL, 0, ids, 2, 1000), STORE_OK);
    assert_int_equal(test_totals(m).messages, 1);
    assert_int_equal(look(m).restorable, 2);
    assert_int_equal(look(m).restorable_octets, 12);

    /* The third was not deleted: none of the three comes back. */
    assert_int_equal(manage_undelete(m, ids, 3), STORE_NOT_FOUND);
    assert_int_equal(test_totals(m).messages, 1);
    assert_int_equal(manage_undelete(m, ids, 2), STORE_OK);
    assert_int_equal(test_totals(m).messages, 3);
    assert_int_equal(test_totals(m).octets, 18);
    after = test_snapshot(m);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(test_uidl(before, i), test_uidl(after, i));
    maildrop_snapshot_free(before);
    maildrop_snapshot_free(after);
    maildrop_close(m);
}

static void test_purge_and_compact(void **state)
{
    enum { MESSAGES = 100, SIZE = 100000 };
    struct maildrop *m = test_drop_open(&drop);
    char *text = calloc(1, SIZE);
    int64_t ids[MESSAGES];
    uint64_t removed, left = 1;
    int64_t size;

    (void)state;
    memset(text, 'x', SIZE);
    for (int i = 0; i < MESSAGES; i++)
        assert_int_equal(test_deliver(m, text, SIZE, &ids[i]), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, ids, MESSAGES, 1000), STORE_OK);
    assert_int_equal(maildrop_purge(m, 1000, &removed), STORE_OK);
    assert_int_equal(removed, 0);
    do
        assert_int_equal(maildrop_purge(m, 0, &removed), STORE_OK);
    while (removed > 0);
    assert_int_equal(look(m).restorable, 0);
    size = (int64_t)(look(m).pages * look(m).page_size);
    while (left > 0)
        assert_int_equal(manage_compact_some(m, &left), STORE_OK);
    assert_int_equal(look(m).free_pages, 0);
    assert_true(test_drop_file_size(&drop, MAILDROP_DB) < size / 10);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), 0);
    free(text);
    maildrop_close(m);
}

/* As in a file without the pages that SQLite needs for that: who asks until none is left would ask
 * for ever. */
static void test_room_that_does_not_come_back(void **state)
{
    enum { HEADER_LARGEST_ROOT = 52, SIZE = 20000 };
    struct maildrop *m = test_drop_open(&drop);
    char path[80], *text = calloc(1, SIZE);
    uint64_t left = 0;
    int64_t id;
    int fd;

    (void)state;
    assert_int_equal(test_deliver(m, text, SIZE, &id), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, &id, 1, 0), STORE_OK);
    assert_true(look(m).free_pages > 0);
    assert_int_equal(handle_checkpoint(m), STORE_OK);
    maildrop_close(m);
    test_drop_path(&drop, MAILDROP_DB, path);
    fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "\0\0\0\0", 4, HEADER_LARGEST_ROOT), 4);
    close(fd);

    m = test_drop_open(&drop);
    assert_int_equal(manage_compact_some(m, &left), STORE_DAMAGED);
    assert_string_equal(maildrop_error(m), "free pages are not given back");
    maildrop_close(m);
    free(text);
}

static void test_notes_on_imports(void **state)
{
    const unsigned char one[MANAGE_KEY_SIZE] = {1}, two[MANAGE_KEY_SIZE] = {2};
    enum manage_import before = MANAGE_KEPT;
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(manage_note_import(m, one, true), STORE_REFUSED);
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(manage_note_import(m, one, true), STORE_OK);
    assert_int_equal(manage_note_import(m, two, false), STORE_OK);
    assert_int_equal(maildrop_batch_end(m, false), STORE_OK);
    assert_int_equal(manage_imported(m, one, &before), STORE_OK);
    assert_int_equal(before, MANAGE_NEW);

    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(manage_note_import(m, one, true), STORE_OK);
    assert_int_equal(manage_note_import(m, two, false), STORE_OK);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    assert_int_equal(manage_imported(m, one, &before), STORE_OK);
    assert_int_equal(before, MANAGE_KEPT);
    assert_int_equal(manage_imported(m, two, &before), STORE_OK);
    assert_int_equal(before, MANAGE_OTHER);
    maildrop_close(m);
}

/* A maildrop as 1.0 left it: without the tables of 1.1 and the digests of 1.2, and with mail. */
static void test_older_minor_version(void **state)
{
    const uint64_t one = 1;
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(test_deliver_text(m, "old\n"), STORE_OK);
    maildrop_close(m);
    test_outside(&drop, TEST_VERSION_1_0);

    m = test_drop_open(&drop);
    assert_int_equal(look(m).minor, SCHEMA_MINOR);
    assert_int_equal(test_totals(m).messages, 1);
    assert_int_equal(manage_set(m, MAILDROP_QUOTA_MESSAGES, &one), STORE_OK);
    assert_int_equal(test_deliver_text(m, "one too many\n"), STORE_OVER_QUOTA);
    maildrop_close(m);
    m = test_drop_open(&drop);
    assert_true(look(m).has_quota_messages);
    maildrop_close(m);
}

static bool take_damage(void *context, const char *damage, uint64_t octets)
{
    (void)octets;
    *(bool *)context |= damage != NULL;
    return true;
}

/* There was no room to bring it up to date: mail comes in all the same. */
static void test_kept_at_an_older_minor_version(void **state)
{
    bool damaged = false;
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    test_outside(&drop, "ALTER TABLE message DROP COLUMN digest; DROP TABLE listing;"
                        "PRAGMA user_version=65537");
    m->minor = 1;
    assert_int_equal(test_deliver_text(m, "old\n"), STORE_OK);
    assert_int_equal(check_run(m, take_damage, &damaged), STORE_OK);
    maildrop_close(m);
    m = test_drop_open(&drop);
    assert_int_equal(look(m).minor, SCHEMA_MINOR);
    assert_int_equal(test_deliver_text(m, "new\n"), STORE_OK);
    assert_int_equal(check_run(m, take_damage, &damaged), STORE_OK);
    assert_false(damaged);
    assert_int_equal(test_totals(m).messages, 2);
    maildrop_close(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_own_quota_goes_first, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_undelete, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_purge_and_compact, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_room_that_does_not_come_back, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_notes_on_imports, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_older_minor_version, enter, remove_drop),
        cmocka_unit_test_setup_teardown(test_kept_at_an_older_minor_version, enter, remove_drop),
    };

    test_be_outside(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
