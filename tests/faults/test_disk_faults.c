/*
 * test_disk_faults.c - every single read, write, sync and truncation of what the store does goes
 * wrong, once and for ever, in each way that a disk knows; and each of its statements, and each of
 * its allocations. (Without LONG=1 in the environment, not every one of the later calls of what
 * makes many.)
 *
 * Whatever happens: a change that was acknowledged is there after the maildrop is opened again, one
 * that was not is there as a whole or not at all, nothing else has changed, the check is clean.
 */
#include "store/backup.h"
#include "store/check.h"
#include "store/handle.h"
#include "store/listing.h"
#include "store/lock.h"
#include "store/manage.h"
#include "store/salvage.h"
#include "store/schema.h"
#include "tests/faults/disk.h"
#include "tests/faults/granted.h"
#include "tests/faults/memory.h"
#include "tests/faults/witness.h"
#include "tests/support/place.h"
#include <errno.h>

enum { NOW = 1000000000, DAY = 86400, LIMIT = 3000, SEED = 4711, BEGINNING = 20 };

static struct test_drop drop;

/* What is tried: given an open maildrop, or none (NULL) to open it itself. */
typedef enum store_outcome change(struct maildrop *m);

static enum store_outcome deliver_small(struct maildrop *m)
{
    return witness_deliver(m, 100, 700, NULL);
}

static enum store_outcome deliver_large(struct maildrop *m)
{
    return witness_deliver(m, 101, 900000, NULL);
}

static const char utf8_header[] = "Subject: h\xc3\xa9\r\nFrom: h\xc3\xa9 <a@example.org>\r\n\r\n";

/* Sessions without UTF8 are to get a surrogate. */
static enum store_outcome deliver_utf8(struct maildrop *m)
{
    struct test_text text = {.octets = utf8_header, .size = sizeof(utf8_header) - 1};

    return maildrop_deliver(m, &(struct maildrop_delivery){.utf8_headers = true}, test_text_read,
                            &text, NULL);
}

static enum store_outcome quit_keeping(struct maildrop *m)
{
    return maildrop_commit(m, (int64_t[]){3, 4}, 2, (int64_t[]){4, 6, 7}, 3, DAY);
}

static enum store_outcome quit_for_good(struct maildrop *m)
{
    return maildrop_commit(m, (int64_t[]){3, 4}, 2, (int64_t[]){4, 6, 7}, 3, 0);
}

static enum store_outcome checkpoint(struct maildrop *m)
{
    assert_int_equal(lock_acquire(m->lock_fd, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    handle_checkpoint(m);
    lock_release(m->lock_fd, MAILDROP_LOCK_WRITE);
    return STORE_OK;
}

/* The second of three is refused, which undoes it alone; it takes no randomness from the third. */
static enum store_outcome import(struct maildrop *m)
{
    const unsigned char key[MANAGE_KEY_SIZE] = "a key";
    enum store_outcome outcome = maildrop_batch_begin(m), third;
    struct test_text text = {.octets = "text\n", .size = 5, .fail_at = 1, .step = 1};

    if (outcome != STORE_OK)
        return outcome;
    outcome = witness_deliver(m, 102, 50000, NULL);
    maildrop_deliver(m, &(struct maildrop_delivery){.uidl = "refused"}, test_text_read, &text,
                     NULL);
    third = witness_deliver(m, 103, 3000, NULL);
    if (outcome == STORE_OK)
        outcome = third;
    if (outcome == STORE_OK)
        outcome = manage_note_import(m, key, true);
    third = maildrop_batch_end(m, outcome == STORE_OK);
    return outcome == STORE_OK ? third : outcome;
}

/* A part may be done, and then it is said how much. All that is due fits into one. */
static enum store_outcome expire(struct maildrop *m)
{
    uint64_t removed = 0;
    const enum store_outcome outcome = maildrop_expire(m, DAY, 0, &removed);

    return removed > 0 ? STORE_OK : outcome;
}

/* Changes nothing that a session sees. */
static enum store_outcome purge(struct maildrop *m)
{
    uint64_t removed;

    return maildrop_purge(m, 0, &removed);
}

/* The same: more is kept than may be, though none of it is past its time. */
static enum store_outcome purge_excess(struct maildrop *m)
{
    uint64_t removed;

    maildrop_limit(m, 1, 1);
    return maildrop_purge(m, DAY, &removed);
}

static enum store_outcome compact(struct maildrop *m)
{
    uint64_t left = 1;
    enum store_outcome outcome = STORE_OK;

    while (outcome == STORE_OK && left > 0)
        outcome = manage_compact_some(m, &left);
    return outcome;
}

static enum store_outcome restore(struct maildrop *m)
{
    return manage_undelete(m, (int64_t[]){5, 8}, 2);
}

/* All that a session and poplarctl read. */
static enum store_outcome read_all(struct maildrop *m)
{
    struct maildrop_snapshot *snapshot = NULL;
    struct maildrop_message message = {0};
    struct maildrop_totals totals;
    char octets[100], *header = NULL;
    int64_t last;
    size_t got, size;
    uint64_t header_size, body;
    bool off;
    enum store_outcome outcome;

    if ((outcome = maildrop_totals(m, &totals)) != STORE_OK ||
        (outcome = maildrop_pop3_off(m, &off)) != STORE_OK ||
        (outcome = maildrop_last_retrieved(m, totals.last_id, &last)) != STORE_OK ||
        (outcome = maildrop_snapshot(m, &totals, &snapshot)) != STORE_OK)
        return outcome;
    assert_false(off);
    assert_int_equal(maildrop_snapshot_count(snapshot), totals.messages);
    maildrop_snapshot_free(snapshot);
    while ((outcome = maildrop_next(m, message.id, &message)) == STORE_OK) {
        outcome = maildrop_read_first(m, message.id, octets, sizeof(octets), &got, &header_size);
        if (outcome != STORE_OK)
            return outcome;
        assert_int_equal(header_size, message.header_size);
    }
    if (outcome == STORE_END)
        outcome = maildrop_surrogate(m, totals.last_id, &header, &size, &body);
    if (outcome == STORE_OK)
        assert_int_equal(body, sizeof(utf8_header) - 1);
    free(header);
    return outcome;
}

static bool note_damage(void *context, const char *damage, uint64_t octets)
{
    (void)octets;
    if (damage)
        *(enum store_outcome *)context = STORE_DAMAGED;
    return true;
}

/* Which tells of all that keeps it from looking as of a damage. */
static enum store_outcome check(struct maildrop *m)
{
    enum store_outcome found = STORE_OK;
    const enum store_outcome outcome = check_run(m, note_damage, &found);

    return outcome == STORE_OK ? found : outcome;
}

static enum store_outcome login(struct maildrop *m)
{
    uint64_t wait;

    return maildrop_login(m, 60, &wait);
}

static char backup_path[80];

/* What it puts back is an earlier state, with a message that is gone now. */
static enum store_outcome put_back(struct maildrop *m)
{
    struct maildrop *backup = NULL;
    char error[200] = "";
    enum store_outcome outcome = backup_open(backup_path, &backup, error, sizeof(error));

    if (outcome == STORE_OK)
        outcome = backup_restore(m, backup, NULL, NULL);
    backup_close(backup);
    return outcome;
}

/* Opening reads; it recovers, cleans up a large WAL, and brings an old schema up to date. */
static enum store_outcome open_it(struct maildrop *m)
{
    struct maildrop *opened = NULL;
    const enum store_outcome outcome = test_drop_try(&drop, &opened);

    assert_null(m);
    maildrop_close(opened);
    return outcome;
}

/* The same as a worker does it, by a connection that was made ready before. If it could not be,
 * that keeps nobody. */
static enum store_outcome open_warm(struct maildrop *m)
{
    enum { NUMBER = 99 };
    struct maildrop *opened = NULL;
    int files[MAILDROP_FILES];
    enum store_outcome outcome;

    assert_null(m);
    maildrop_library_warm(maildrop_template, maildrop_template_size, MAILDROP_SESSIONS, NUMBER);
    test_drop_grant(&drop, files);
    assert_int_equal(dup3(files[MAILDROP_DB], NUMBER, O_CLOEXEC), NUMBER);
    close(files[MAILDROP_DB]);
    files[MAILDROP_DB] = NUMBER;
    outcome = maildrop_open(files, &opened);
    maildrop_close(opened);
    return outcome;
}

/* What a salvage calls whole is what a session would see, whatever it could not read. On a copy. */
static struct witness salvaged_from;

static void compare_salvaged(struct salvage *s, const struct maildrop_message *message)
{
    static char octets[200000];
    size_t size = 0, got = 1;

    while (got > 0 && size < sizeof(octets)) {
        if (salvage_read(s, message->id, size, octets + size, sizeof(octets) - size, &got) !=
            STORE_OK)
            return; /* this time it fails */
        size += got;
    }
    for (size_t i = 0; i < salvaged_from.n; i++)
        if (salvaged_from.messages[i].id == message->id)
            assert_int_equal(witness_digest(octets, size), salvaged_from.messages[i].digest);
}

static enum store_outcome salvage(struct maildrop *m)
{
    char copy[60], command[300], error[200] = "";
    struct maildrop_message message;
    struct salvage *s = NULL;
    enum store_outcome outcome;
    size_t whole = 0;

    assert_null(m);
    snprintf(copy, sizeof(copy), "%s.copy", drop.folder);
    snprintf(command, sizeof(command), "cp %s/mail.db %s; cp %s/mail.db-wal %s-wal", drop.folder,
             copy, drop.folder, copy);
    assert_int_equal(system(command), 0);
    outcome = salvage_open(copy, &s, error, sizeof(error));
    for (size_t i = 0; outcome == STORE_OK && i < salvage_count(s); i++) {
        if (salvage_message(s, i, &message) == SALVAGE_WHOLE) {
            compare_salvaged(s, &message);
            whole++;
        }
    }
    if (outcome == STORE_OK && whole < salvaged_from.n)
        outcome = STORE_DAMAGED; /* which is told, message by message */
    else if (outcome != STORE_OK)
        assert_true(strlen(error) > 0);
    salvage_close(s);
    snprintf(command, sizeof(command), "rm -f %s %s-wal %s-shm", copy, copy, copy);
    assert_int_equal(system(command), 0);
    return outcome;
}

/* Which maildrop it is tried on. */
enum basis { FILLED, OLD_SCHEMA, LARGE_WAL, GROUPED, BASES };
static struct image bases[BASES];

static const struct scenario {
    const char *name;
    change *change;
    enum basis basis;
    bool opens;
} scenarios[] = {
    {"a small delivery", deliver_small, FILLED, false},
    {"a large delivery", deliver_large, FILLED, false},
    {"a delivery with UTF-8 in its header", deliver_utf8, FILLED, false},
    {"QUIT, deletions can be undone", quit_keeping, FILLED, false},
    {"QUIT, deletions for good", quit_for_good, FILLED, false},
    {"a checkpoint", checkpoint, FILLED, false},
    {"an import", import, FILLED, false},
    {"expiry", expire, FILLED, false},
    {"a purge", purge, FILLED, false},
    {"a purge of what is too much", purge_excess, FILLED, false},
    {"a delivery that fills a group", deliver_small, GROUPED, false},
    {"QUIT, from a group", quit_keeping, GROUPED, false},
    {"undeletion, into a group", restore, GROUPED, false},
    {"a purge, from a group", purge, GROUPED, false},
    {"reading groups", read_all, GROUPED, false},
    {"a check of groups", check, GROUPED, false},
    {"compaction", compact, FILLED, false},
    {"undeletion", restore, FILLED, false},
    {"a login that is noted", login, FILLED, false},
    {"reading", read_all, FILLED, false},
    {"a check", check, FILLED, false},
    {"a restoration", put_back, FILLED, false},
    {"a salvage", salvage, FILLED, true},
    {"an opening", open_it, FILLED, true},
    {"an opening made ready", open_warm, FILLED, true},
    {"an opening with a large WAL", open_it, LARGE_WAL, true},
    {"an upgrade", open_it, OLD_SCHEMA, true},
};

static const struct way {
    const char *name;
    enum disk_call call;
    int error;
} ways[] = {
    {"write: I/O error", DISK_WRITE, EIO},
    {"write: disk full", DISK_WRITE, ENOSPC},
    {"write: over quota", DISK_WRITE, EDQUOT},
    {"write: cut short", DISK_WRITE, 0},
    {"sync: I/O error", DISK_SYNC, EIO},
    {"sync: disk full", DISK_SYNC, ENOSPC},
    {"truncate: I/O error", DISK_TRUNCATE, EIO},
    {"truncate: disk full", DISK_TRUNCATE, ENOSPC},
    {"read: I/O error", DISK_READ, EIO},
    {"read: cut short", DISK_READ, 0},
    {"stat: I/O error", DISK_STAT, EIO},
    {"statement: I/O error", DISK_STATEMENT, SQLITE_IOERR},
    {"statement: busy", DISK_STATEMENT, SQLITE_BUSY},
    {"memory of SQLite's", DISK_MEMORY, ENOMEM},
    {"memory", DISK_OUR_MEMORY, ENOMEM},
    {"randomness", DISK_RANDOM, ENOSYS},
};

/* What a session sees after the maildrop was opened once more; false if that was not possible. */
static void look_again(struct witness *w, const char *what)
{
    struct maildrop *m = NULL;
    enum store_outcome outcome = test_drop_try(&drop, &m);

    if (outcome != STORE_OK)
        fail_msg("%s: then the maildrop opens no more: %s: %s", what,
                 maildrop_outcome_name(outcome), maildrop_error(NULL));
    if ((outcome = witness_look(m, w)) != STORE_OK)
        fail_msg("%s: then it cannot be read: %s: %s", what, maildrop_outcome_name(outcome),
                 maildrop_error(m));
    if (!witness_check(m))
        fail_msg("%s: then the check finds damage", what);
    maildrop_close(m);
}

/* The handle itself shows nothing of what it refused. */
static void look_at_once(struct maildrop *m, enum store_outcome outcome,
                         const struct witness *before, const char *what)
{
    static struct witness now;

    if (outcome == STORE_OK || witness_look(m, &now) != STORE_OK)
        return;
    if (!witness_same(&now, before))
        fail_msg("%s: %s, but it is seen", what, maildrop_outcome_name(outcome));
}

/* The call to fail after this one: each one of a kind of which there are few, and of those with
 * which a change begins. */
static unsigned next_call(const struct disk_fault *fault)
{
    const bool few =
        fault->call == DISK_OUR_MEMORY ||
        (!fault->for_ever && (fault->call == DISK_STATEMENT || fault->nth < BEGINNING));
    const char *all = getenv("LONG");

    if (few || (all && strcmp(all, "1") == 0))
        return fault->nth + 1;
    return fault->nth + 1 + fault->nth / (fault->for_ever ? 2 : 3);
}

/* Try it with one fault; whether that was met. `after` is what success looks like. */
static bool try(const struct scenario *scenario, const struct disk_fault *fault,
                const struct witness *before, const struct witness *after, const char *what)
{
    static struct witness now;
    struct maildrop *m = NULL;
    enum store_outcome outcome;
    bool met;

    image_put(&bases[scenario->basis], &drop);
    if (!scenario->opens) {
        m = test_drop_open(&drop);
        m->patience_ms = 50;
    }
    disk_set_seed(SEED); /* the same UIDLs every time */
    disk_fail(fault);
    outcome = scenario->change(m);
    if (!fault->for_ever)
        disk_fail(NULL);
    if (m)
        look_at_once(m, outcome, before, what);
    maildrop_close(m);
    disk_fail(NULL);
    met = disk_failed();
    if (!met && outcome != STORE_OK)
        fail_msg("%s: %s without a fault", what, maildrop_outcome_name(outcome));
    if (outcome == STORE_DAMAGED && fault->call <= DISK_STAT && fault->error &&
        scenario->change != salvage) /* to which whatever cannot be read is damage */
        fail_msg("%s: the maildrop is blamed for what the disk did", what);
    look_again(&now, what);
    if (!witness_same(&now, after) && (outcome == STORE_OK || !witness_same(&now, before)))
        fail_msg("%s: %s, but it is %s", what, maildrop_outcome_name(outcome),
                 witness_same(&now, before) ? "undone" : "done in part");
    if (outcome != STORE_OK && !witness_same(&now, before))
        fail_msg("%s: %s, but it is done", what, maildrop_outcome_name(outcome));
    return met;
}

static void try_scenario(const struct scenario *scenario)
{
    static struct witness before, after;
    struct disk_fault none = {.call = DISK_CALLS};
    char what[200];
    unsigned tried = 0;

    image_put(&bases[scenario->basis], &drop);
    look_again(&before, scenario->name);
    image_put(&bases[scenario->basis], &drop);
    if (!scenario->opens) {
        struct maildrop *m = test_drop_open(&drop);

        disk_set_seed(SEED);
        assert_int_equal(scenario->change(m), STORE_OK);
        maildrop_close(m);
        look_again(&after, scenario->name);
    } else {
        after = before;
    }
    assert_false(try(scenario, &none, &before, &after, scenario->name));

    for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
        for (int for_ever = 0; for_ever <= (ways[way].error != 0); for_ever++) {
            struct disk_fault fault = {ways[way].call, 1, for_ever, ways[way].error};

            for (bool met = true; met && fault.nth < LIMIT; fault.nth = next_call(&fault)) {
                snprintf(what, sizeof(what), "%s, %s at call %u%s", scenario->name, ways[way].name,
                         fault.nth, for_ever ? " and later" : "");
                met = try(scenario, &fault, &before, &after, what);
                tried++;
            }
        }
    }
    printf("%s: %u faults\n", scenario->name, tried);
}

static void test_every_fault(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
        try_scenario(&scenarios[i]);
}

/* A salvage makes lists that grow, now while it looks at one place, now at another: each time it is
 * told that there is no memory for them. */
static void test_salvage_memory(void **state)
{
    static const int sizes[] = {64, 32, 21, 14};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct disk_fault fault = {DISK_OUR_MEMORY, 1, false, ENOMEM};
        struct test_drop few;
        struct maildrop *m;
        char path[80], error[200];
        bool met = true;

        test_drop_make(&few);
        test_drop_path(&few, MAILDROP_DB, path);
        m = test_drop_open(&few);
        for (int n = 0; n < sizes[i]; n++)
            assert_int_equal(test_deliver_text(m, "Subject: few\r\n\r\n"), STORE_OK);
        maildrop_close(m);
        test_outside(&few, "PRAGMA wal_checkpoint(TRUNCATE)");
        for (; met; fault.nth++) {
            struct salvage *s = NULL;
            enum store_outcome outcome;

            disk_fail(&fault);
            outcome = salvage_open(path, &s, error, sizeof(error));
            disk_fail(NULL);
            met = disk_failed();
            if (outcome == STORE_OK)
                assert_int_equal(salvage_count(s), sizes[i]);
            else
                assert_int_equal(outcome, STORE_MEMORY);
            assert_true(met || outcome == STORE_OK);
            salvage_close(s);
        }
        assert_true(fault.nth > 3);
        for (unsigned k = 0; k < MAILDROP_FILES; k++) { /* what SQLite took away is there again */
            test_drop_path(&few, (enum maildrop_file)k, path);
            close(open(path, O_RDWR | O_CREAT, 0600));
        }
        test_drop_remove(&few);
    }
}

/* The making of the template of all maildrops. */

static bool try_template(const struct disk_fault *fault)
{
    char path[100];
    sqlite3 *db = NULL;
    int rc, minor = 0;

    snprintf(path, sizeof(path), "%s/template", drop.folder);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "unix"),
                     SQLITE_OK);
    disk_fail(fault);
    rc = schema_create(db);
    disk_fail(NULL);
    if (rc == SQLITE_OK)
        assert_true(schema_minor(db, &minor) == SQLITE_OK && minor == SCHEMA_MINOR);
    else
        assert_true(disk_failed());
    sqlite3_close(db);
    unlink(path);
    return disk_failed();
}

static void test_template(void **state)
{
    static const struct disk_fault faults[] = {{DISK_STATEMENT, 1, false, SQLITE_IOERR},
                                               {DISK_MEMORY, 1, false, ENOMEM},
                                               {DISK_MEMORY, 1, true, ENOMEM}};

    (void)state;
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        struct disk_fault fault = faults[i];

        while (try_template(&fault))
            fault.nth++;
        assert_true(fault.nth > 3);
    }
}

/* The making of a maildrop. */

static const struct way making_ways[] = {
    {"write: disk full", DISK_WRITE, ENOSPC}, {"write: over quota", DISK_WRITE, EDQUOT},
    {"write: I/O error", DISK_WRITE, EIO},    {"write: cut short", DISK_WRITE, 0},
    {"sync: I/O error", DISK_SYNC, EIO},      {"sync: disk full", DISK_SYNC, ENOSPC},
    {"name: disk full", DISK_NAME, ENOSPC},   {"name: I/O error", DISK_NAME, EIO},
};

/* With one fault, then without; whether that was met. */
static bool try_making(const struct disk_fault *fault, const char *what)
{
    static struct witness now;
    const char *state_dir = in_place("state");
    char error[GRANTED_ERROR] = "";
    int files[MAILDROP_FILES];
    enum login_outcome outcome;
    struct maildrop *m = NULL;

    assert_int_equal(mkdir(state_dir, 0700), 0);
    disk_fail(fault);
    outcome = granted_files(state_dir, true, files, error);
    disk_fail(NULL);
    if (outcome == LOGIN_OK) {
        if (maildrop_open(files, &m) != STORE_OK)
            fail_msg("%s: was made, but: %s", what, maildrop_error(NULL));
        maildrop_close(m);
    } else if (outcome != LOGIN_STORE_TEMP || !disk_failed()) {
        fail_msg("%s: %s: %s", what, proto_outcome_name(outcome), error);
    }
    /* Nothing that it left is in the way of the next. */
    m = NULL;
    if (granted_files(state_dir, true, files, error) != LOGIN_OK)
        fail_msg("%s: then it cannot be made at all: %s", what, error);
    if (maildrop_open(files, &m) != STORE_OK || witness_look(m, &now) != STORE_OK || now.n != 0 ||
        !witness_check(m))
        fail_msg("%s: then it is not sound: %s", what, maildrop_error(m));
    maildrop_close(m);
    remove_tree(state_dir);
    return disk_failed();
}

static void test_making(void **state)
{
    char what[100];
    unsigned tried = 0;

    (void)state;
    assert_true(place_make("/tmp", 0700));
    for (size_t way = 0; way < sizeof(making_ways) / sizeof(making_ways[0]); way++) {
        for (int for_ever = 0; for_ever <= (making_ways[way].error != 0); for_ever++) {
            struct disk_fault fault = {making_ways[way].call, 1, for_ever, making_ways[way].error};

            for (bool met = true; met; fault.nth++) {
                snprintf(what, sizeof(what), "a maildrop, %s at call %u%s", making_ways[way].name,
                         fault.nth, for_ever ? " and later" : "");
                met = try_making(&fault, what);
                tried++;
            }
        }
    }
    assert_int_equal(place_remove(), 0);
    printf("making a maildrop: %u faults\n", tried);
}

/* Eight messages, two of them old, two deleted; some of it still in the WAL. */
static void fill(struct maildrop *m)
{
    struct test_text text = {.octets = "old\n", .size = 4};

    for (int i = 0; i < 6; i++)
        assert_int_equal(witness_deliver(m, (uint64_t)i, 500 + 20000 * (size_t)i, NULL), STORE_OK);
    for (int i = 0; i < 2; i++) {
        text.position = 0;
        assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){.received = NOW - 2 * DAY},
                                          test_text_read, &text, NULL),
                         STORE_OK);
    }
    assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){5, 8}, 2, 10), STORE_OK);
    assert_int_equal(witness_deliver(m, 9, 2000, NULL), STORE_OK);
    assert_int_equal(deliver_utf8(m), STORE_OK);
}

/* Few messages, but of ids that make packed groups (store/listing.h), up to the last but one of the
 * second. */
static void fill_groups(struct maildrop *m)
{
    enum { LAST = 2 * LISTING_SPAN - 2 };
    struct test_text text = {.octets = "Subject: grouped\r\n\r\n", .size = 20};
    char uidl[MAILDROP_UIDL_MAX + 1]; /* the longest that there are */
    int64_t gone[LAST];
    size_t n = 0;

    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    for (int64_t id = 1; id < LAST; id++) {
        snprintf(uidl, sizeof(uidl), "%070d", (int)id);
        text.position = 0;
        assert_int_equal(maildrop_deliver(m, &(struct maildrop_delivery){.uidl = uidl},
                                          test_text_read, &text, NULL),
                         STORE_OK);
        if (id > 10 && id < LAST - 30)
            gone[n++] = id;
    }
    assert_int_equal(deliver_utf8(m), STORE_OK);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, gone, n, 0), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){5, 8}, 2, DAY), STORE_OK);
    assert_int_equal(test_totals(m).last_id, LAST);
}

static int enter(void **state)
{
    struct maildrop *m;

    (void)state;
    test_drop_make(&drop);
    m = test_drop_open(&drop);
    assert_int_equal(witness_deliver(m, 50, 70000, NULL), STORE_OK);
    assert_int_equal(witness_deliver(m, 51, 100, NULL), STORE_OK);
    snprintf(backup_path, sizeof(backup_path), "%s/backup", drop.folder);
    test_write_file(backup_path, "", 0);
    assert_int_equal(backup_write(m, backup_path, NULL, NULL), STORE_OK);
    assert_int_equal(maildrop_commit(m, NULL, 0, (int64_t[]){1, 2}, 2, 0), STORE_OK);
    fill(m);
    assert_int_equal(witness_look(m, &salvaged_from), STORE_OK);
    maildrop_close(m);
    image_take(&drop, &bases[FILLED]);

    test_outside(&drop, TEST_VERSION_1_0);
    image_take(&drop, &bases[OLD_SCHEMA]);

    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        char path[80];

        test_drop_path(&drop, (enum maildrop_file)i, path);
        test_write_file(path, maildrop_template, i == MAILDROP_DB ? maildrop_template_size : 0);
    }
    m = test_drop_open(&drop);
    fill_groups(m);
    maildrop_close(m);
    image_take(&drop, &bases[GROUPED]);

    image_put(&bases[FILLED], &drop);
    m = test_drop_open(&drop);
    m->wal_frames = -100000; /* no checkpoint at its commit */
    assert_int_equal(maildrop_batch_begin(m), STORE_OK);
    assert_int_equal(witness_deliver(m, 10, 2500000, NULL), STORE_OK);
    sqlite3_wal_hook(m->db, NULL, NULL);
    assert_int_equal(maildrop_batch_end(m, true), STORE_OK);
    maildrop_close(m);
    assert_true(test_drop_file_size(&drop, MAILDROP_WAL) > 2 << 20);
    image_take(&drop, &bases[LARGE_WAL]);
    return 0;
}

static int leave(void **state)
{
    (void)state;
    for (unsigned i = 0; i < BASES; i++)
        image_free(&bases[i]);
    unlink(backup_path);
    test_drop_remove(&drop);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_fault),
        cmocka_unit_test(test_salvage_memory),
        cmocka_unit_test(test_template),
        cmocka_unit_test(test_making),
    };

    test_be_outside(argc, argv);
    if (!memory_install() ||
        maildrop_library_init(false) != STORE_OK) /* a backup is opened by its path */
        return 1;
    disk_install();
    disk_set_clock(NOW);
    return cmocka_run_group_tests(tests, enter, leave);
}
