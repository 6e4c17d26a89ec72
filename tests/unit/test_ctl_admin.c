/*
 * test_ctl_admin.c - poplarctl's work on maildrops from end to end: moving in with UIDLs and again,
 * deletion under locks, backups by time, restore, salvage, check, expire.
 *
 * Runs as anybody: the store user is whoever runs it.
 */
#include "ctl_run.h"

#include "store/ctl_drops.h"
#include "store/lock.h"
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>

static struct ctl extra; /* options with values, for the next run */

/* Run a command with up to three words. */
static int run(int (*command)(struct ctl *), unsigned options, const char *a, const char *b,
               const char *c)
{
    struct ctl ctl = extra;
    ctl.options = options;
    extra = (struct ctl){0};
    return ctl_run(command, ctl, (const char *[]){a, b, c, NULL});
}

static void make_directory(const char *name)
{
    assert_int_equal(mkdir(in_place(name), 0700), 0);
}

/* The UIDLs of a maildrop in their order, with blanks between. */
static void expect_uidls(const char *user, const char *wanted)
{
    char got[1000] = "";
    assert_int_equal(run(ctl_message_list, 0, user, NULL, NULL), 0);
    char *state = NULL, *line = strtok_r(printed, "\n", &state);
    while ((line = strtok_r(NULL, "\n", &state)) && line[0] == ' ')
        sprintf(got + strlen(got), "%s ", strrchr(line, ' ') + 1);
    assert_string_equal(got, wanted);
}

static void add(const char *user, const char *text)
{
    assert_int_equal(run(ctl_import, 0, user, place_put("added.eml", "%s", text), NULL), 0);
}

/* Dovecot's order is that of its UIDs, whatever the names say. */
static void moves_in_from_dovecot(void **state)
{
    (void)state;
    const char *const directories[] = {"md", "md/cur", "md/new", "md/tmp"};
    for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
        make_directory(directories[i]);
    const char *md = in_place("md");
    place_put("md/cur/1000.a.h:2,S", "Subject: a\n\none\n");
    place_put("md/cur/1001.b.h:2,", "Subject: b\n\ntwo\n");
    place_put("md/cur/1002.c.h:2,", "Subject: c\n\nthree\n");
    place_put("md/new/1003.d.h", "Subject: d\n\nfour\n");
    place_put("md/dovecot-uidlist",
              "3 V1275660208 N25022 Gx\n7 :1002.c.h\n8 P1002 :1001.b.h\n9 :1000.a.h\n");
    assert_int_equal(run(ctl_import, CTL_DRY_RUN, "alice", md, NULL), 0);
    expect_printed("would import 4 messages");
    expect_printed("3 keep the UIDL");
    expect_printed("1 with a new UIDL: not in the old server's list");
    assert_int_equal(run(ctl_message_list, 0, "alice", NULL, NULL), EX_NOUSER);

    assert_int_equal(run(ctl_import, CTL_UIDL, "alice", md, NULL), 0);
    assert_int_equal(run(ctl_message_list, 0, "alice", NULL, NULL), 0);
    const char *third = strstr(printed, "000000094c0907b0");
    assert_non_null(third);
    assert_true(strstr(printed, "000000074c0907b0") < strstr(printed, " 1002\n"));
    assert_true(strstr(printed, " 1002\n") < third);

    /* Again: nothing; with one more message, renamed ones and one deleted here: just that. */
    assert_int_equal(run(ctl_import, 0, "alice", md, NULL), 0);
    expect_printed("imported 0 messages, 0 octets, 0 skipped, 4 there already");
    assert_int_equal(run(ctl_message_delete, 0, "alice", "1", NULL), 0);
    must_set(config, "store", "", "undelete_for", "0");
    assert_int_equal(run(ctl_expire, 0, NULL, NULL, NULL), 0);
    expect_printed("1 removed for good");
    must_set(config, "store", "", "undelete_for", "7d");
    const char *from = in_place("md/new/1003.d.h"), *to = in_place("md/cur/1003.d.h:2,S");
    assert_int_equal(rename(from, to), 0);
    place_put("md/new/1004.e.h", "Subject: e\n\nfive\n");
    assert_int_equal(run(ctl_import, 0, "alice", md, NULL), 0);
    expect_printed("imported 1 message");
    expect_printed("1 not imported: imported before, and deleted since");
}

/* Two accounts of one old server, made in the same second: what has the UIDL of another is no less
 * a message of its own, also where that other is gone. */
static void two_accounts_become_one(void **state)
{
    (void)state;
    const char *const directories[] = {"a", "a/cur", "a/new", "a/tmp",
                                       "b", "b/cur", "b/new", "b/tmp"};
    for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
        make_directory(directories[i]);
    for (int i = 1; i <= 3; i++) {
        char name[40];
        snprintf(name, sizeof name, "a/cur/100%d.a.h:2,", i);
        place_put(name, "Subject: a%d\n\nof a\n", i);
        snprintf(name, sizeof name, "b/cur/100%d.b.h:2,", i);
        place_put(name, i == 3 ? "Subject: a%d\n\nof a\n" : "Subject: b%d\n\nof b\n", i);
    }
    place_put("a/dovecot-uidlist", "3 V7 N4\n1 :1001.a.h\n2 :1002.a.h\n3 :1003.a.h\n");
    place_put("b/dovecot-uidlist", "3 V7 N4\n1 :1001.b.h\n2 :1002.b.h\n3 :1003.b.h\n");
    assert_int_equal(run(ctl_import, 0, "both", in_place("a"), NULL), 0);
    expect_printed("imported 3 messages");
    assert_int_equal(run(ctl_message_delete, 0, "both", "1", NULL), 0);
    must_set(config, "store", "", "undelete_for", "0");
    assert_int_equal(run(ctl_expire, 0, NULL, NULL, NULL), 0);
    must_set(config, "store", "", "undelete_for", "7d");
    assert_int_equal(run(ctl_import, CTL_DRY_RUN, "both", in_place("b"), NULL), 0);
    expect_printed("would import 2 messages");
    assert_int_equal(run(ctl_import, 0, "both", in_place("b"), NULL), 0);
    expect_printed("imported 2 messages");
    expect_printed("2 with a new UIDL: another message of the maildrop has, or had, this UIDL");
    expect_printed("1 not imported: its UIDL is there");
    assert_int_equal(run(ctl_import, 0, "both", in_place("a"), NULL), 0);
    expect_printed("imported 0 messages");
    assert_int_equal(run(ctl_import, 0, "both", in_place("b"), NULL), 0);
    expect_printed("imported 0 messages");
    /* What came by another way, and nobody noted, is the same if it is. */
    int kept = dup(STDIN_FILENO), text = open(place_put("text", "Subject: x\n\nx\n"), O_RDONLY);
    dup2(text, STDIN_FILENO);
    assert_int_equal(run(ctl_message_add, 0, "added", NULL, NULL), 0);
    dup2(kept, STDIN_FILENO);
    close(kept);
    close(text);
    assert_int_equal(run(ctl_export, 0, "added", in_place("exported"), NULL), 0);
    assert_int_equal(run(ctl_import, 0, "added", in_place("exported"), NULL), 0);
    expect_printed("1 not imported: its UIDL is there");
}

static void moves_in_from_an_mbox(void **state)
{
    (void)state;
    const char *box =
        place_put("box", "From a\nX-IMAP: 1199145600 3\nSubject: DON'T DELETE THIS MESSAGE -- X\n"
                         "\nx\n\n"
                         "From a\nX-UIDL: one!\nSubject: 1\n\nx\n\n"
                         "From a\nX-UIDL: one!\nSubject: 2\n\nx\n\n"
                         "From a\nX-UID: 5\nSubject: 3\n\nx\n\n"
                         "From a\nSubject: 4\n\nx\n\n"
                         "From a\nStatus: RO\nSubject: 4\n\nx\n");
    assert_int_equal(run(ctl_import, 0, "bob", box, NULL), 0);
    expect_printed("imported 5 messages");
    expect_printed("2 keep the UIDL");
    expect_printed("1 with a new UIDL: another message");
    expect_printed("1 not imported: a server's own data");
    /* The same mail, whatever the server wrote into it since. */
    place_put("box", "From a\nX-UIDL: one!\nStatus: RO\nSubject: 1\n\nx\n\n"
                     "From a\nStatus: RO\nX-UIDL: one!\nSubject: 2\n\nx\n\n"
                     "From a\nStatus: RO\nSubject: 4\n\nx\n\n"
                     "From a\nStatus: RO\nSubject: 4\n\nx\n\n"
                     "From a\nStatus: RO\nSubject: 4\n\nx\n");
    assert_int_equal(run(ctl_import, 0, "bob", box, NULL), 0);
    expect_printed("imported 1 message,");
    expect_printed("4 there already");

    extra.uidl = "none";
    assert_int_equal(run(ctl_import, CTL_UIDL, "bob2", box, NULL), 0);
    expect_printed("5 with a new UIDL: --uidl=none");
    extra.uidl = "nonsense";
    assert_int_equal(run(ctl_import, CTL_UIDL, "bob3", box, NULL), EX_USAGE);
    extra.uidl_format = "%m";
    assert_int_equal(run(ctl_import, CTL_UIDL_TEMPLATE, "bob3", box, NULL), EX_USAGE);
}

static void moves_in_with_a_capture(void **state)
{
    (void)state;
    const char *box =
        place_put("captured", "From a\nSubject: 1\n\nx\n\nFrom a\nSubject: 22\n\nx\n");
    const char *list =
        place_put("capture", "+OK\r\n1 aa\r\n2 bb\r\n.\r\n+OK\r\n1 17\r\n2 18\r\n.\r\n");
    extra.uidl_list = list;
    assert_int_equal(run(ctl_import, CTL_UIDL_CAPTURE, "carol", box, NULL), 0);
    expect_uidls("carol", "aa bb ");
    place_put("capture", "1 aa\n3 bb\n");
    extra.uidl_list = list;
    assert_int_equal(run(ctl_import, CTL_UIDL_CAPTURE, "carol", box, NULL), EX_DATAERR);
}

static void moves_in_a_tree(void **state)
{
    (void)state;
    make_directory("tree");
    make_directory("tree/example.test");
    place_put("tree/dave", "From a\nSubject: 1\n\nx\n");
    place_put("tree/example.test/erin", "From a\nSubject: 1\n\nx\n");
    place_put("tree/a\tb", "From a\nSubject: 1\n\nx\n");
    const char *tree = in_place("tree");
    must_set(config, "auth", "", "strip_domain", "never");
    assert_int_equal(run(ctl_import, CTL_ALL | CTL_JSON, tree, NULL, NULL), EX_NOUSER);
    expect_printed("\"user\":\"dave\"}");
    expect_printed("\"user\":\"erin@example.test\"}");
    must_set(config, "auth", "", "strip_domain", "local");
    assert_int_equal(run(ctl_mailbox_list, CTL_JSON, NULL, NULL, NULL), 0);
    expect_printed("\"user\":\"erin@example.test\",\"messages\":1");
}

/* Another process holds one byte of a maildrop's lock until its pipe is closed. */
static int hold(const char *user, enum maildrop_lock_byte byte)
{
    struct ctl ctl = {.config = config};
    int ready[2], go[2];
    char one;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    if (fork() == 0) {
        char *path = ctl_drops_path(&ctl, user), *file = base_format("%s/lock", path);
        int fd = open(file, O_RDWR);
        free(file);
        free(path);
        close(go[1]);
        if (lock_acquire(fd, byte, 0) != STORE_OK || write(ready[1], "x", 1) != 1)
            _exit(1);
        _exit(read(go[0], &one, 1) == 0 ? 0 : 1);
    }
    assert_int_equal(read(ready[0], &one, 1), 1);
    close(ready[0]);
    close(ready[1]);
    close(go[0]);
    return go[1];
}

static void waits_for_nobody(void **state)
{
    (void)state;
    struct ctl ctl = {.config = config};
    add("held", "Subject: x\n\nx\n");
    int holder = hold("held", MAILDROP_LOCK_SESSION);
    const char *file = in_place("held.backup");
    assert_int_equal(run(ctl_mailbox_delete, CTL_YES, "held", NULL, NULL), EX_TEMPFAIL);
    assert_int_equal(run(ctl_message_delete, 0, "held", "1", NULL), EX_TEMPFAIL);
    assert_int_equal(run(ctl_message_restore, 0, "held", "1", NULL), EX_TEMPFAIL);
    /* What only reads or adds goes on. */
    assert_int_equal(run(ctl_mailbox_backup, 0, "held", file, NULL), 0);
    assert_int_equal(run(ctl_mailbox_restore, CTL_YES, "held", file, NULL), EX_TEMPFAIL);
    assert_int_equal(run(ctl_mailbox_check, 0, "held", NULL, NULL), 0);
    assert_int_equal(run(ctl_mailbox_compact, 0, "held", NULL, NULL), 0);
    assert_int_equal(run(ctl_message_list, 0, "held", NULL, NULL), 0);
    must_set(config, "store", "", "expire_after", "1s");
    assert_int_equal(run(ctl_expire, CTL_JSON, "held", NULL, NULL), 0);
    expect_printed("\"in_use\":1,\"expired\":0");
    must_set(config, "store", "", "expire_after", "0");
    close(holder);

    assert_int_equal(run(ctl_mailbox_delete, 0, "held", NULL, NULL), EX_USAGE);
    assert_true(ctl_open_exists(&ctl, "held"));
    while (run(ctl_mailbox_delete, CTL_YES, "held", NULL, NULL) == EX_TEMPFAIL)
        lock_sleep(1); /* until the holder is gone */
    assert_false(ctl_open_exists(&ctl, "held"));
    assert_int_equal(run(ctl_mailbox_delete, CTL_YES, "held", NULL, NULL), EX_NOUSER);
    assert_int_equal(run(ctl_mailbox_create, CTL_JSON, "held", NULL, NULL), 0);
    expect_printed("\"created\":true");
    assert_int_equal(run(ctl_mailbox_restore, CTL_YES, "held", file, NULL), 0);
    expect_printed("restored 1 message,");
}

/* Whoever waits to deliver while a maildrop is deleted must not deliver into nothing. */
static void deletes_under_both_locks(void **state)
{
    (void)state;
    struct ctl ctl = {.config = config};
    int fd = -1;
    add("gone", "Subject: x\n\nx\n");
    char *path = ctl_drops_path(&ctl, "gone"), *lock = base_format("%s/lock", path);
    int waiting = open(lock, O_RDWR);
    assert_int_equal(ctl_drops_lock("gone", path, &fd), 0);
    assert_int_equal(lock_acquire(waiting, MAILDROP_LOCK_SESSION, 0), STORE_BUSY);
    assert_int_equal(lock_acquire(waiting, MAILDROP_LOCK_WRITE, 0), STORE_BUSY);
    close(fd);
    assert_int_equal(run(ctl_mailbox_delete, CTL_YES | CTL_JSON, "gone", NULL, NULL), 0);
    struct stat about;
    assert_int_equal(fstat(waiting, &about), 0);
    assert_int_equal(about.st_nlink, 0);
    assert_int_equal(access(path, F_OK), -1);
    close(waiting);
    free(path);
    free(lock);
}

static void age_file(const char *user, const char *name, time_t seconds)
{
    struct ctl ctl = {.config = config};
    struct timespec times[2] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
    char *path = ctl_drops_path(&ctl, user), *file = base_format("%s/%s", path, name);
    assert_int_equal(utimensat(AT_FDCWD, file, times, 0), 0);
    free(file);
    free(path);
}

static void age(const char *user)
{
    age_file(user, "mail.db", 100);
    age_file(user, "mail.db-wal", 100);
}

static void backs_up_what_changed(void **state)
{
    (void)state;
    const char *target = in_place("backups"), *one = in_place("backups/ann/mail.db");
    add("ann", "Subject: x\n\nx\n");
    /* What changed only just now might change again unseen: it is not taken for unchanged. */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(run(ctl_mailbox_backup, CTL_ALL, target, NULL, NULL), 0);
        expect_printed("ann: written\n");
    }
    age("ann");
    assert_int_equal(run(ctl_mailbox_backup, CTL_ALL, target, NULL, NULL), 0);
    expect_printed("ann: written\n");
    assert_int_equal(run(ctl_mailbox_backup, CTL_ALL | CTL_JSON, target, NULL, NULL), 0);
    expect_printed("mail.db\",\"written\":false}");
    /* A clock that was set back meanwhile hides nothing. */
    add("ann", "Subject: y\n\ny\n");
    age_file("ann", "mail.db-wal", 3600);
    assert_int_equal(run(ctl_mailbox_backup, CTL_ALL, target, NULL, NULL), 0);
    expect_printed("ann: written\n");

    /* A damaged backup is not put back; a sound one is, by its directory too. */
    const char *directory = in_place("backups/ann");
    assert_int_equal(run(ctl_mailbox_restore, CTL_YES, "ann", directory, NULL), 0);
    expect_printed("restored 2 messages");
    int fd = open(one, O_RDWR);
    assert_int_equal(pwrite(fd, "garbage", 7, 5 * 4096), 7);
    close(fd);
    assert_int_equal(run(ctl_mailbox_restore, CTL_YES, "ann", one, NULL), EX_DATAERR);
    assert_int_equal(run(ctl_mailbox_restore, CTL_YES, "ann", "/nonexistent", NULL), EX_NOINPUT);
    const char *salvaged = in_place("salvaged-backup");
    run(ctl_mailbox_salvage, 0, one, salvaged, NULL);
    expect_printed("salvaged ");
    assert_int_equal(run(ctl_message_list, 0, "ann", NULL, NULL), 0);
    expect_printed("2 messages");
}

/* A page of rows overwritten: named by check, and all mail that is elsewhere comes back. */
static void salvages(void **state)
{
    (void)state;
    struct ctl ctl = {.config = config};
    const char *target = in_place("salvaged");
    char *box = base_strdup("");
    for (int i = 0; i < 200; i++) {
        char *more = base_format("%sFrom a\nX-UIDL: salvage-%d\nSubject: %d\n\nx\n\n", box, i, i);
        free(box);
        box = more;
    }
    const char *file = place_put("many", "%s", box);
    char *path = ctl_drops_path(&ctl, "sal");
    assert_int_equal(run(ctl_import, 0, "sal", file, NULL), 0);
    assert_int_equal(run(ctl_mailbox_compact, CTL_JSON, "sal", NULL, NULL), 0);
    char *db = base_format("%s/mail.db", path);
    int fd = open(db, O_RDWR);
    assert_int_equal(pwrite(fd, "garbage", 7, 3 * 4096), 7); /* the root of the rows */
    close(fd);
    assert_int_equal(run(ctl_mailbox_check, CTL_JSON, "sal", NULL, NULL), EX_DATAERR);
    assert_int_equal(run(ctl_mailbox_salvage, 0, "sal", target, NULL), 0);
    expect_printed("salvaged 200 messages");
    assert_int_equal(run(ctl_mailbox_delete, CTL_YES, "sal", NULL, NULL), 0);
    assert_int_equal(run(ctl_import, 0, "sal", target, NULL), 0);
    expect_printed("200 keep the UIDL");
    assert_int_equal(run(ctl_message_list, 0, "sal", NULL, NULL), 0);
    expect_printed("  salvage-0\n");
    assert_int_equal(run(ctl_mailbox_check, 0, "sal", NULL, NULL), 0);
    assert_string_equal(printed, "sal: sound\n");
    free(box);
    free(path);
    free(db);
}

static void sets_limits(void **state)
{
    (void)state;
    add("lim", "Subject: x\n\nx\n");
    assert_int_equal(run(ctl_mailbox_set, CTL_JSON, "lim", "quota_octets=2K", "quota_messages=1"),
                     0);
    expect_printed("\"limits\":{\"quota_octets\":2048,\"quota_messages\":1}");
    const char *file = place_put("more.eml", "Subject: y\n\ny\n");
    assert_int_equal(run(ctl_import, 0, "lim", file, NULL), EX_CANTCREAT);
    assert_int_equal(run(ctl_user, 0, "lim", NULL, NULL), 0);
    expect_printed("2048 (of this maildrop)");
    assert_int_equal(run(ctl_mailbox_set, 0, "lim", "quota_messages=", NULL), 0);
    assert_int_equal(run(ctl_import, 0, "lim", file, NULL), 0);
    assert_int_equal(run(ctl_mailbox_set, 0, "lim", "quota=1", NULL), EX_USAGE);
    assert_int_equal(run(ctl_mailbox_set, 0, "lim", "quota_octets=much", NULL), EX_USAGE);
}

static void shows_and_exports(void **state)
{
    (void)state;
    static const char text[] = "Subject: x\n\nFrom here\n>From there\n>> From no\nFrom\n";
    const char *mbox = in_place("out.mbox");
    add("show", text);
    assert_int_equal(run(ctl_message_show, 0, "show", "1", NULL), 0);
    assert_string_equal(printed, text);
    assert_int_equal(run(ctl_message_show, CTL_CRLF, "show", "1", NULL), 0);
    expect_printed("Subject: x\r\n\r\nFrom here\r\n");
    assert_int_equal(run(ctl_message_show, 0, "show", "2", NULL), EX_NOINPUT);
    assert_int_equal(run(ctl_message_show, 0, "show", "x", NULL), EX_USAGE);
    extra.format = "mbox";
    assert_int_equal(run(ctl_export, CTL_FORMAT, "show", mbox, NULL), 0);
    extra.format = "mbox";
    assert_int_equal(run(ctl_export, CTL_FORMAT, "show", mbox, NULL), EX_CANTCREAT);
    assert_int_equal(run(ctl_import, 0, "show2", mbox, NULL), 0);
    assert_int_equal(run(ctl_message_show, 0, "show2", "1", NULL), 0);
    assert_string_equal(printed, text);
}

/* As an ordinary account: whose maildrops they are may all, others are told. */
static void runs_as_the_store_user(void **state)
{
    (void)state;
    const struct passwd *nobody = getpwnam("nobody");
    int ended;
    if (geteuid() != 0 || !nobody) {
        skip();
        return;
    }
    must_set(config, "server", "", "store_user", "nobody");
    assert_int_equal(chown(place, nobody->pw_uid, nobody->pw_gid), 0);
    const char *mail = place_put("mail.eml", "Subject: x\n\nx\n");
    pid_t child = fork();
    if (child == 0) {
        if (setgid(nobody->pw_gid) != 0 || setuid(nobody->pw_uid) != 0)
            _exit(1);
        unsetenv("TMPDIR");
        _exit(run(ctl_import, 0, "own", mail, NULL) != 0 ||
              run(ctl_mailbox_list, 0, NULL, NULL, NULL) != 0 ||
              run(ctl_expire, 0, NULL, NULL, NULL) != 0 ||
              run(ctl_mailbox_delete, CTL_YES, "own", NULL, NULL) != 0);
    }
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_int_equal(ended, 0);
    add("other", "Subject: y\n\ny\n");
    child = fork();
    if (child == 0) {
        const char *to = in_place("out");
        if (setgid(12345) != 0 || setuid(12345) != 0)
            _exit(1);
        _exit(run(ctl_message_list, 0, "other", NULL, NULL) != EX_NOPERM ||
              run(ctl_mailbox_list, 0, NULL, NULL, NULL) != EX_NOPERM ||
              run(ctl_user, 0, "other", NULL, NULL) != 0 ||
              run(ctl_import, 0, "other", mail, NULL) != EX_NOPERM ||
              run(ctl_mailbox_salvage, 0, place, to, NULL) == 0);
    }
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_int_equal(ended, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(moves_in_from_dovecot, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(two_accounts_become_one, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(moves_in_from_an_mbox, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(moves_in_with_a_capture, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(moves_in_a_tree, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(waits_for_nobody, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(deletes_under_both_locks, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(backs_up_what_changed, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(salvages, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(sets_limits, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(shows_and_exports, ctl_run_begin, ctl_run_end),
        cmocka_unit_test_setup_teardown(runs_as_the_store_user, ctl_run_begin, ctl_run_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
