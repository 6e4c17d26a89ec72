/*
 * test_maildrop.c - the store through its header: what is delivered is what is read, counted and
 * deleted, and it is still so after closing and opening again.
 */
#include "one_drop.h"

#include "between.h"
#include "store/handle.h"
#include "store/lock.h"

/* A message of `size` octets whose every octet tells its place; no line ends in it but CRLF. */
static char *make_text(size_t size)
{
    char *text = malloc(size + 1);

    assert_non_null(text);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)('A' + (i * 7 + i / 251) % 26);
    for (size_t i = 77; i + 2 < size; i += 79)
        memcpy(text + i, "\r\n", 2);
    if (size >= 2)
        memcpy(text + size - 2, "\r\n", 2);
    return text;
}

/* Read all of a message in pieces of one size. */
static char *read_all(struct maildrop *m, int64_t id, size_t piece, size_t *size)
{
    char *text = NULL;
    size_t got = 0;

    *size = 0;
    do {
        text = realloc(text, *size + piece);
        assert_non_null(text);
        assert_int_equal(maildrop_read(m, id, *size, text + *size, piece, &got), STORE_OK);
        *size += got;
    } while (got == piece);
    return text;
}

static void check_content(struct maildrop *m, int64_t id, const char *want, size_t size)
{
    static const size_t pieces[] = {1000, MAILDROP_CHUNK_SIZE - 1, MAILDROP_CHUNK_SIZE, 200000};

    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        size_t got;
        char *text = read_all(m, id, pieces[i], &got);

        assert_int_equal(got, size);
        assert_memory_equal(text, want, size);
        free(text);
    }
}

/* Deliver in steps, read back, compare; also after opening again. */
static void round_trip(const char *in, size_t size, size_t step, const char *want, size_t want_size,
                       uint64_t header)
{
    struct test_text text = {.octets = in, .size = size, .step = step};
    struct maildrop *m = test_drop_open(&drop);
    const struct maildrop_totals before = test_totals(m);
    struct maildrop_snapshot *snapshot;
    uint64_t header_size = 99;
    char first[1000];
    int64_t id = 0;
    size_t last, first_size;

    assert_int_equal(
        maildrop_deliver(m, &(struct maildrop_delivery){0}, test_text_read, &text, &id), STORE_OK);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(test_totals(m).messages, before.messages + 1);
        assert_int_equal(test_totals(m).octets, before.octets + want_size);
        assert_int_equal(test_totals(m).last_id, id);
        snapshot = test_snapshot(m);
        last = maildrop_snapshot_count(snapshot) - 1;
        assert_int_equal(maildrop_snapshot_entry(snapshot, last).id, id);
        assert_int_equal(maildrop_snapshot_entry(snapshot, last).size, want_size);
        maildrop_snapshot_free(snapshot);
        check_content(m, id, want, want_size);
        assert_int_equal(
            maildrop_read_first(m, id, first, sizeof(first), &first_size, &header_size), STORE_OK);
        assert_int_equal(first_size, want_size < sizeof(first) ? want_size : sizeof(first));
        assert_memory_equal(first, want, first_size);
        assert_int_equal(header_size, header);
        maildrop_close(m);
        m = test_drop_open(&drop);
    }
    maildrop_close(m);
}

#define ROUND_TRIP(in, want, header)                                                               \
    round_trip(in, sizeof(in) - 1, 1, want, sizeof(want) - 1, header)

static void test_tricky_octets(void **state)
{
    (void)state;
    ROUND_TRIP("", "", 0);
    ROUND_TRIP("\n", "\r\n", 2);
    ROUND_TRIP("A: b\n\nno end", "A: b\r\n\r\nno end\r\n", 8);
    ROUND_TRIP("A: b\r\n\r\n.\r\n..\r\n.x\r\n", "A: b\r\n\r\n.\r\n..\r\n.x\r\n", 8);
    ROUND_TRIP("a\rb\0c\n\n\xff\xfe\x80", "a\rb\0c\r\n\r\n\xff\xfe\x80\r\n", 9);
    ROUND_TRIP("end in cr\r", "end in cr\r\r\n", 12);
}

static void test_chunk_boundaries(void **state)
{
    const size_t chunk = MAILDROP_CHUNK_SIZE;
    const size_t sizes[] = {chunk - 1, chunk,           chunk + 1, 2 * chunk - 1,
                            2 * chunk, 2 * chunk + 300, 200000};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char *text = make_text(sizes[i]);
        round_trip(text, sizes[i], 0, text, sizes[i], sizes[i]);
        free(text);
    }
}

/* A CR as the last octet of a chunk, of a read, of both; the LF comes with the next; and a bare LF
 * whose CR must be put in exactly there. */
static void test_line_end_over_boundary(void **state)
{
    const size_t chunk = MAILDROP_CHUNK_SIZE, steps[] = {0, chunk - 1, chunk, 4096, 1000};

    (void)state;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        for (size_t at = chunk - 2; at <= chunk; at++) {
            char *text = make_text(chunk + 100), *bare = malloc(chunk + 100);

            memset(text, 'x', chunk + 90);
            memcpy(text + at, "\r\n", 2);
            round_trip(text, chunk + 100, steps[i], text, chunk + 100, chunk + 100);
            memcpy(bare, text, at);
            memcpy(bare + at, text + at + 1, chunk + 99 - at);
            round_trip(bare, chunk + 99, steps[i], text, chunk + 100, chunk + 100);
            free(text);
            free(bare);
        }
    }
}

static void test_reading_past_the_end(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char buffer[64];
    size_t got = 99;
    uint64_t octets;
    int64_t id;

    (void)state;
    assert_int_equal(test_deliver(m, "0123456789\r\n", 12, &id), STORE_OK);
    assert_int_equal(maildrop_read(m, id, 10, buffer, sizeof(buffer), &got), STORE_OK);
    assert_int_equal(got, 2);
    assert_int_equal(maildrop_read(m, id, 12, buffer, sizeof(buffer), &got), STORE_OK);
    assert_int_equal(got, 0);
    assert_int_equal(maildrop_read(m, id, UINT64_MAX, buffer, sizeof(buffer), &got), STORE_OK);
    assert_int_equal(got, 0);
    assert_int_equal(maildrop_read(m, id + 1, 0, buffer, sizeof(buffer), &got), STORE_NOT_FOUND);
    assert_int_equal(maildrop_read(m, -1, 0, buffer, sizeof(buffer), &got), STORE_NOT_FOUND);
    assert_int_equal(maildrop_read(m, INT64_MAX, 0, buffer, sizeof(buffer), &got), STORE_NOT_FOUND);
    assert_int_equal(maildrop_read_first(m, 77, buffer, sizeof(buffer), &got, &octets),
                     STORE_NOT_FOUND);
    maildrop_close(m);
}

static void test_uidls(void **state)
{
    struct maildrop_delivery delivery = {.uidl = "old-server/17"};
    struct test_text text = {.octets = "x\n", .size = 2};
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *first, *second;

    (void)state;
    for (int i = 0; i < 50; i++)
        assert_int_equal(test_deliver_text(m, "x\n"), STORE_OK);
    assert_int_equal(maildrop_deliver(m, &delivery, test_text_read, &text, NULL), STORE_OK);
    text.position = 0;
    assert_int_equal(maildrop_deliver(m, &delivery, test_text_read, &text, NULL), STORE_EXISTS);
    first = test_snapshot(m);
    maildrop_close(m);
    m = test_drop_open(&drop);
    second = test_snapshot(m);
    assert_int_equal(maildrop_snapshot_count(second), 51);
    for (size_t i = 0; i < 51; i++) {
        char uidl[MAILDROP_UIDL_MAX + 1];

        strcpy(uidl, test_uidl(first, i));
        assert_string_equal(uidl, test_uidl(second, i));
        assert_true(is_between(strlen(uidl), 1, MAILDROP_UIDL_MAX));
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(uidl, test_uidl(first, j));
    }
    assert_string_equal(test_uidl(second, 50), "old-server/17");
    maildrop_snapshot_free(first);
    maildrop_snapshot_free(second);
    maildrop_close(m);
}

static void test_uidls_that_are_none(void **state)
{
    static const char longest[] =
        "1234567890123456789012345678901234567890123456789012345678901234567"
        "890";
    const char *const bad[] = {"",
                               "a b",
                               "tab\t",
                               "\x7f",
                               "\xc3\xa9",
                               "12345678901234567890"
                               "123456789012345678901234567"
                               "890123456789012345678901"};
    struct test_text text = {.octets = "x\n", .size = 2};
    struct maildrop_delivery delivery = {.uidl = longest};
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(strlen(longest), MAILDROP_UIDL_MAX);
    assert_int_equal(maildrop_deliver(m, &delivery, test_text_read, &text, NULL), STORE_OK);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        delivery.uidl = bad[i];
        assert_int_equal(maildrop_deliver(m, &delivery, test_text_read, &text, NULL),
                         STORE_REFUSED);
    }
    assert_int_equal(test_totals(m).messages, 1);
    maildrop_close(m);
}

/* Yesterday's file is put back: ids come again, UIDLs must not. */
static void test_restored_file(void **state)
{
    struct test_drop copy;
    struct maildrop_snapshot *first, *second;
    struct maildrop *m;

    (void)state;
    test_drop_make(&copy);
    m = test_drop_open(&drop);
    assert_int_equal(test_deliver_text(m, "today\n"), STORE_OK);
    first = test_snapshot(m);
    maildrop_close(m);
    m = test_drop_open(&copy);
    assert_int_equal(test_deliver_text(m, "tomorrow\n"), STORE_OK);
    second = test_snapshot(m);
    maildrop_close(m);
    assert_int_equal(maildrop_snapshot_entry(first, 0).id, maildrop_snapshot_entry(second, 0).id);
    assert_string_not_equal(test_uidl(first, 0), test_uidl(second, 0));
    maildrop_snapshot_free(first);
    maildrop_snapshot_free(second);
    test_drop_remove(&copy);
}

/* A session's list does not move when mail comes in. */
static void test_snapshot_ends_at_totals(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    struct maildrop_snapshot *snapshot;
    struct maildrop_totals totals;

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    totals = test_totals(m);
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_OK);
    assert_int_equal(maildrop_snapshot(m, &totals, &snapshot), STORE_OK);
    assert_int_equal(maildrop_snapshot_count(snapshot), 1);
    maildrop_snapshot_free(snapshot);
    maildrop_close(m);
}

static void test_deletion(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    const int64_t wanted[] = {2, 4}, missing[] = {1, 99}, seen[] = {3};
    struct maildrop_snapshot *snapshot;
    struct maildrop_message message;
    char buffer[16];
    size_t got;

    (void)state;
    for (int i = 0; i < 5; i++)
        assert_int_equal(test_deliver_text(m, "text\n"), STORE_OK);

    /* One that is not there: nothing of the others. */
    assert_int_equal(maildrop_commit(m, NULL, 0, missing, 2, 0), STORE_NOT_FOUND);
    assert_int_equal(test_totals(m).messages, 5);

    assert_int_equal(maildrop_commit(m, seen, 1, wanted, 2, 3600), STORE_OK);
    assert_int_equal(test_totals(m).messages, 3);
    assert_int_equal(test_totals(m).octets, 18);
    assert_int_equal(test_totals(m).last_id, 5);
    snapshot = test_snapshot(m);
    assert_int_equal(maildrop_snapshot_count(snapshot), 3);
    assert_int_equal(maildrop_snapshot_entry(snapshot, 1).id, 3);
    maildrop_snapshot_free(snapshot);

    /* Within the window it is still there for who looks closer. */
    assert_int_equal(maildrop_next(m, 1, &message), STORE_OK);
    assert_int_equal(message.id, 2);
    assert_true(message.deleted > 0 && message.retrieved == 0);
    assert_int_equal(maildrop_next(m, 2, &message), STORE_OK);
    assert_true(message.deleted == 0 && message.retrieved > 0 && message.received > 0);
    assert_int_equal(message.size, 6);
    assert_int_equal(maildrop_read(m, 2, 0, buffer, sizeof(buffer), &got), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, wanted, 1, 0), STORE_NOT_FOUND);

    /* Without a window all that is deleted goes at once. */
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){5}, 1, 0), STORE_OK);
    assert_int_equal(maildrop_read(m, 5, 0, buffer, sizeof(buffer), &got), STORE_NOT_FOUND);
    assert_int_equal(maildrop_read(m, 2, 0, buffer, sizeof(buffer), &got), STORE_NOT_FOUND);
    assert_int_equal(maildrop_next(m, 3, &message), STORE_END);
    maildrop_close(m);

    m = test_drop_open(&drop);
    assert_int_equal(test_totals(m).messages, 2);
    /* An id is not given twice. */
    assert_int_equal(test_deliver_text(m, "text\n"), STORE_OK);
    assert_int_equal(test_totals(m).last_id, 6);
    maildrop_close(m);
}

/* Chunks go with their message, and the room is given back to the system in time. */
static void test_removal_gives_room_back(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char *text = make_text(3000000);
    int64_t full, id;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(test_deliver(m, text, 3000000, &id), STORE_OK);
    free(text);
    full = test_drop_file_size(&drop, MAILDROP_DB);
    assert_true(full > 12000000);
    for (int64_t i = 1; i <= id; i++)
        assert_int_equal(maildrop_commit(m, NULL, 0, &i, 1, 0), STORE_OK);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(test_deliver(m, "x\n", 2, &id), STORE_OK);
        assert_int_equal(maildrop_commit(m, NULL, 0, &id, 1, 0), STORE_OK);
    }
    maildrop_close(m);
    test_outside(&drop, "PRAGMA wal_checkpoint(TRUNCATE)");
    assert_true(test_drop_file_size(&drop, MAILDROP_DB) < full / 2);
}

static enum store_outcome deliver_limited(struct maildrop *m, struct maildrop_delivery limits,
                                          size_t size)
{
    char *octets = make_text(size);
    struct test_text text = {.octets = octets, .size = size};
    const enum store_outcome outcome = maildrop_deliver(m, &limits, test_text_read, &text, NULL);

    free(octets);
    return outcome;
}

static void test_limits(void **state)
{
    struct maildrop *m = test_drop_open(&drop);

    (void)state;
    assert_int_equal(deliver_limited(m, (struct maildrop_delivery){.max_message = 1000}, 1001),
                     STORE_TOO_LARGE);
    assert_int_equal(deliver_limited(m, (struct maildrop_delivery){.max_message = 100000}, 300000),
                     STORE_TOO_LARGE);
    assert_int_equal(deliver_limited(m, (struct maildrop_delivery){.max_message = 1000}, 1000),
                     STORE_OK);
    assert_int_equal(deliver_limited(m, (struct maildrop_delivery){.quota_octets = 1999}, 1000),
                     STORE_OVER_QUOTA);
    assert_int_equal(deliver_limited(m, (struct maildrop_delivery){.quota_octets = 500}, 0),
                     STORE_OK);
    assert_int_equal(deliver_limited(m, (struct maildrop_delivery){.quota_octets = 2000}, 1000),
                     STORE_OK);
    assert_int_equal(deliver_limited(m, (struct maildrop_delivery){.quota_messages = 3}, 1),
                     STORE_OVER_QUOTA);
    assert_int_equal(test_totals(m).messages, 3);
    assert_int_equal(test_totals(m).octets, 2000);
    maildrop_close(m);
}

static void test_failing_source(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char *octets = make_text(200000);
    struct test_text text = {.octets = octets, .size = 200000, .fail_at = 150000};
    struct maildrop_message message;

    (void)state;
    assert_int_equal(
        maildrop_deliver(m, &(struct maildrop_delivery){0}, test_text_read, &text, NULL),
        STORE_SOURCE);
    assert_int_equal(test_totals(m).messages, 0);
    assert_int_equal(maildrop_next(m, 0, &message), STORE_END);
    assert_int_equal(test_deliver(m, octets, 200000, NULL), STORE_OK);
    free(octets);
    maildrop_close(m);
}

static void test_batch(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    struct test_text broken = {.octets = "0123", .size = 4, .step = 1, .fail_at = 2};

    (void)state;
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(test_deliver_text(m, "gone\n"), STORE_OK);
    assert_int_equal(test_totals(m).messages, 1);
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){1}, 1, 0), STORE_REFUSED);
    assert_int_equal(maildrop_batch_begin(m), STORE_REFUSED);
    assert_int_equal(maildrop_batch_end(m, false), STORE_OK);
    assert_int_equal(test_totals(m).messages, 0);
    assert_int_equal(maildrop_batch_end(m, true), STORE_REFUSED);

    /* One that fails takes only itself away. */
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    assert_int_equal(
        maildrop_deliver(m, &(struct maildrop_delivery){0}, test_text_read, &broken, NULL),
        STORE_SOURCE);
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_OK);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    maildrop_close(m);

    /* Closed in the middle: nothing of it. */
    m = test_drop_open(&drop);
    assert_int_equal(test_totals(m).messages, 2);
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(test_deliver_text(m, "three\n"), STORE_OK);
    maildrop_close(m);
    m = test_drop_open(&drop);
    assert_int_equal(test_totals(m).messages, 2);
    assert_int_equal(test_totals(m).octets, 10);
    maildrop_close(m);
}

/* Nothing is written while another holds the write lock, and nobody waits for it for ever. */
static void test_write_lock_held(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    uint64_t start;
    char path[80];
    int fd;

    (void)state;
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    test_drop_path(&drop, MAILDROP_LOCK, path);
    fd = open(path, O_RDWR);
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    m->patience_ms = 150;
    start = lock_clock();
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){1}, 1, 0), STORE_BUSY);
    assert_true(is_between(lock_clock() - start, 150, 5000));
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_BUSY);
    assert_int_equal(maildrop_batch_begin(m), STORE_BUSY);
    assert_int_equal(test_totals(m).messages, 1);
    /* The session byte is another matter. */
    lock_release(fd, MAILDROP_LOCK_WRITE);
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_SESSION, 0), STORE_OK);
    assert_int_equal(test_deliver_text(m, "two\n"), STORE_OK);
    close(fd);
    maildrop_close(m);
}

static void test_write_lock_is_given_back(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char path[80];
    int fd;

    (void)state;
    test_drop_path(&drop, MAILDROP_LOCK, path);
    fd = open(path, O_RDWR);
    assert_int_equal(test_deliver_text(m, "one\n"), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, &(int64_t){9}, 1, 0), STORE_NOT_FOUND);
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    lock_release(fd, MAILDROP_LOCK_WRITE);
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, 0), STORE_BUSY);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    close(fd);
    maildrop_close(m);
}

static void test_wal_stays_bounded(void **state)
{
    const int64_t limit = (HANDLE_WAL_PAGES + 64) * 4200L;
    struct maildrop *m = test_drop_open(&drop);
    char *text = make_text(20000);
    int64_t largest = 0;

    (void)state;
    for (int i = 0; i < 400; i++) {
        assert_int_equal(test_deliver(m, text, 20000, NULL), STORE_OK);
        if (test_drop_file_size(&drop, MAILDROP_WAL) > largest)
            largest = test_drop_file_size(&drop, MAILDROP_WAL);
    }
    free(text);
    assert_true(1 <= largest && largest <= limit);
    maildrop_close(m);
}

/* One message larger than any bound of the WAL: afterwards it is small again. */
static void test_wal_after_a_large_message(void **state)
{
    struct maildrop *m = test_drop_open(&drop);
    char *text = make_text(12000000);

    (void)state;
    assert_int_equal(test_deliver(m, text, 12000000, NULL), STORE_OK);
    assert_int_equal(test_drop_file_size(&drop, MAILDROP_WAL), 0);
    maildrop_close(m);
    m = test_drop_open(&drop);
    check_content(m, 1, text, 12000000);
    free(text);
    maildrop_close(m);
}

static void test_settings_took(void **state)
{
    static const struct {
        const char *pragma;
        int value;
    } settings[] = {{"synchronous", 2},   {"wal_autocheckpoint", 0}, {"temp_store", 2},
                    {"mmap_size", 0},     {"trusted_schema", 0},     {"cell_size_check", 1},
                    {"secure_delete", 1}, {"auto_vacuum", 2},        {"writable_schema", 0}};
    struct maildrop *m = test_drop_open(&drop);
    sqlite3_stmt *statement;
    int persistent = -1;
    char sql[64];

    (void)state;
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        snprintf(sql, sizeof(sql), "PRAGMA %s", settings[i].pragma);
        assert_int_equal(sqlite3_prepare_v2(m->db, sql, -1, &statement, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
        assert_int_equal(sqlite3_column_int(statement, 0), settings[i].value);
        sqlite3_finalize(statement);
    }
    assert_int_equal(sqlite3_file_control(m->db, "main", SQLITE_FCNTL_PERSIST_WAL, &persistent),
                     SQLITE_OK);
    assert_int_equal(persistent, 1);
    assert_int_not_equal(sqlite3_exec(m->db, "ATTACH ':memory:' AS x", NULL, NULL, NULL),
                         SQLITE_OK);
    assert_int_equal(sqlite3_get_autocommit(m->db), 1);
    maildrop_close(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tricky_octets, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_chunk_boundaries, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_line_end_over_boundary, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_reading_past_the_end, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_uidls, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_uidls_that_are_none, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_restored_file, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_snapshot_ends_at_totals, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_deletion, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_removal_gives_room_back, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_limits, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_failing_source, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_batch, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_write_lock_held, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_write_lock_is_given_back, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_wal_stays_bounded, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_wal_after_a_large_message, make_drop, remove_drop),
        cmocka_unit_test_setup_teardown(test_settings_took, make_drop, remove_drop),
    };

    test_be_outside(argc, argv);
    if (maildrop_library_init(true) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
