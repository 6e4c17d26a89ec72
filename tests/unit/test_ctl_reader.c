/*
 * test_ctl_reader.c - the paths of poplarctl import: what each is taken for, the order of a
 * Maildir, and what is refused.
 */
#include "daemon/base.h"
#include "store/ctl_hide.h"
#include "store/ctl_maildir.h"
#include "store/ctl_reader.h"
#include "tests/support/place.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include <cmocka.h>

static int enter_place(void **state)
{
    (void)state;
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    return place_make("/tmp", 0700) ? chdir(place) : -1;
}

static void put(const char *path, const char *text, time_t mtime)
{
    struct timespec times[2] = {{.tv_sec = mtime}, {.tv_sec = mtime}};
    place_put(path, "%s", text);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Everything in a path, in one line: "RECEIVED:TEXT|", "passed|", "failed|". */
static void expect(const char *path, enum ctl_format format, const char *wanted)
{
    char all[4096] = "", error[512];
    size_t used = 0;
    int status;
    enum ctl_read what;
    struct ctl_item item;
    const struct ctl_reader_how how = {.format = format};
    struct ctl_reader *reader = ctl_reader_open(path, &how, &status, error, sizeof error);
    assert_non_null(reader);
    while ((what = ctl_reader_next(reader, &item)) != CTL_READ_END) {
        ssize_t got = 0;
        if (what == CTL_READ_MESSAGE) {
            used += (size_t)sprintf(all + used, "%jd:", (intmax_t)item.received);
            while ((got = ctl_reader_read(reader, all + used, 3)) > 0)
                used += (size_t)got;
        } else
            used += (size_t)sprintf(all + used, "failed");
        assert_int_equal(got, 0);
        all[used++] = '|';
        all[used] = '\0';
    }
    assert_string_equal(all, wanted);
    assert_int_equal(ctl_reader_position(reader), ctl_reader_total(reader));
    ctl_reader_close(reader);
}

static void refuse(const char *path, enum ctl_format format, int wanted, const char *word)
{
    char error[512] = "";
    int status = 0;
    const struct ctl_reader_how how = {.format = format};
    assert_null(ctl_reader_open(path, &how, &status, error, sizeof error));
    assert_int_equal(status, wanted);
    assert_non_null(strstr(error, path));
    assert_non_null(strstr(error, word));
}

static void tells_files_apart(void **state)
{
    (void)state;
    static const char mbox[] = "From a\nx\n\nFrom b Sat Jan 3 00:01:40 1970 +0000\ny\n";
    put("box", mbox, 7);
    put("one.eml", mbox, 7);
    put("two", "From: a\n", 8);
    put("three", "F", 9);
    expect("box", CTL_FORMAT_AUTO, "0:x\n|172900:y\n|");
    expect("one.eml", CTL_FORMAT_MBOX, "0:x\n|172900:y\n|");
    expect("one.eml", CTL_FORMAT_AUTO, "7:From a\nx\n\nFrom b Sat Jan 3 00:01:40 1970 +0000\ny\n|");
    expect("box", CTL_FORMAT_MESSAGE, "7:From a\nx\n\nFrom b Sat Jan 3 00:01:40 1970 +0000\ny\n|");
    expect("two", CTL_FORMAT_AUTO, "8:From: a\n|");
    expect("three", CTL_FORMAT_AUTO, "9:F|");
}

static void refuses_what_is_none(void **state)
{
    (void)state;
    put("empty", "", 1);
    put("empty.eml", "", 1);
    put("plain", "x\n", 1);
    assert_int_equal(mkdir("folder", 0700), 0);
    assert_int_equal(mkfifo("fifo", 0600), 0);
    refuse("empty", CTL_FORMAT_AUTO, EX_DATAERR, "is empty");
    refuse("empty", CTL_FORMAT_MBOX, EX_DATAERR, "is empty");
    refuse("plain", CTL_FORMAT_MBOX, EX_DATAERR, "does not begin with");
    refuse("plain", CTL_FORMAT_MAILDIR, EX_DATAERR, "is a file");
    refuse("folder", CTL_FORMAT_AUTO, EX_DATAERR, "no Maildir");
    refuse("folder", CTL_FORMAT_MBOX, EX_DATAERR, "is a directory");
    refuse("fifo", CTL_FORMAT_AUTO, EX_NOINPUT, "neither a file nor a directory");
    refuse("nothing", CTL_FORMAT_AUTO, EX_NOINPUT, "No such file");
    expect("empty.eml", CTL_FORMAT_AUTO, "1:|");
}

static void locked_mbox_waits(void **state)
{
    (void)state;
    put("locked", "From a\nx\n", 1);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open("locked", O_RDWR);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &whole), 0);
    refuse("locked", CTL_FORMAT_AUTO, EX_TEMPFAIL, "locked");
    close(fd);
    expect("locked", CTL_FORMAT_AUTO, "0:x\n|");
}

static void make_maildir(const char *path)
{
    static const char *const parts[] = {"", "/cur", "/new", "/tmp"};
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        char *part = base_format("%s%s", path, parts[i]);
        assert_int_equal(mkdir(part, 0700), 0);
        free(part);
    }
}

static void maildir_in_order(void **state)
{
    (void)state;
    make_maildir("md");
    put("md/new/1000.b.host", "four\n", 2000);
    put("md/cur/999.a.host:2,S", "two\n", 500);
    put("md/cur/1000.a.host:2,", "three\n", 1000);
    put("md/cur/1001.a.host:2,ST", "deleted\n", 1); /* by an IMAP client, not for POP3 */
    put("md/cur/.hidden", "hidden\n", 1);
    put("md/cur/name-without-time", "one\n", 77);
    put("md/tmp/1.x", "unfinished\n", 1);
    expect("md", CTL_FORMAT_AUTO, "77:one\n|500:two\n|1000:three\n|1000:four\n|1:deleted\n|");
    expect("md", CTL_FORMAT_MAILDIR, "77:one\n|500:two\n|1000:three\n|1000:four\n|1:deleted\n|");
    make_maildir("ms");
    put("ms/new/1000.M100P1.host", "two\n", 1000);
    put("ms/new/1000.M90P1.host", "one\n", 1000);
    expect("ms", CTL_FORMAT_AUTO, "1000:one\n|1000:two\n|");
}

/* Names that begin like others, a message with two names, and three files of one name: none of them
 * is taken for another. */
static void maildir_of_names_alike(void **state)
{
    (void)state;
    make_maildir("ma");
    put("ma/cur/1.a:2,S", "one\n", 1);
    put("ma/new/1.ab", "two\n", 2);
    put("ma/cur/1.abc:2,", "three\n", 3);
    assert_int_equal(link("ma/cur/1.a:2,S", "ma/new/1.b"), 0);
    put("ma/cur/2.a:2,S", "four\n", 4);
    put("ma/cur/2.a:2,R", "five\n", 5);
    put("ma/new/2.a", "six\n", 6);
    char all[4096] = "", error[512];
    static const struct ctl_reader_how how = {.format = CTL_FORMAT_MAILDIR};
    struct ctl_item item;
    int status;
    struct ctl_reader *reader = ctl_reader_open("ma", &how, &status, error, sizeof error);
    assert_non_null(reader);
    while (ctl_reader_next(reader, &item) == CTL_READ_MESSAGE) {
        char octets[100];
        ssize_t got = ctl_reader_read(reader, octets, sizeof octets);
        strncat(all, octets, (size_t)got);
    }
    ctl_reader_close(reader);
    static const struct {
        const char *text;
        unsigned times;
    } wanted[] = {{"one\n", 2},  {"two\n", 1},  {"three\n", 1},
                  {"four\n", 1}, {"five\n", 1}, {"six\n", 1}};
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        unsigned times = 0;
        for (const char *at = all; (at = strstr(at, wanted[i].text)); at++)
            times++;
        assert_int_equal(times, wanted[i].times);
    }
}

/* Root imports what its owner could have put there: no links out, nothing that blocks. */
static void maildir_follows_nothing(void **state)
{
    (void)state;
    make_maildir("evil");
    put("secret", "secret\n", 1);
    put("evil/new/2.a", "good\n", 2);
    assert_int_equal(symlink("../../secret", "evil/new/1.a"), 0);
    assert_int_equal(mkfifo("evil/cur/3.a:2,", 0600), 0);
    assert_int_equal(mkdir("evil/cur/4.a:2,", 0700), 0);
    expect("evil", CTL_FORMAT_AUTO, "failed|2:good\n|failed|failed|");

    assert_int_equal(mkdir("linked", 0700), 0);
    assert_int_equal(mkdir("linked/new", 0700), 0);
    assert_int_equal(symlink("../evil/cur", "linked/cur"), 0);
    refuse("linked", CTL_FORMAT_AUTO, EX_DATAERR, "no Maildir");
}

static void empty_maildir(void **state)
{
    (void)state;
    make_maildir("none");
    expect("none", CTL_FORMAT_AUTO, "");
}

static void names(void **state)
{
    (void)state;
    assert_int_equal(ctl_maildir_seconds("1234.M5P6.host,S=7:2,S"), 1234);
    assert_int_equal(ctl_maildir_seconds("1234"), 0);
    assert_int_equal(ctl_maildir_seconds("x.1"), 0);
    assert_int_equal(ctl_maildir_seconds("99999999999999999999999.x"), 0);
    assert_true(ctl_maildir_has_flag("1.x:2,FT", 'T'));
    assert_false(ctl_maildir_has_flag("1.xT:2,FS", 'T'));
    assert_true(ctl_maildir_has_flag("1.xT:2,FS", 'S'));
    assert_false(ctl_maildir_has_flag("1.T", 'T'));
}

/* What poplarctl does with each message: look, then read as it is to be stored. */
static void expect_stored(const char *path, enum ctl_uidl_kind kind, const char *wanted)
{
    char all[4096] = "", error[512], octets[4096], uidl[MAILDROP_UIDL_MAX + 1];
    size_t used = 0;
    int status;
    struct ctl_item item;
    const struct ctl_reader_how how = {.uidl = kind};
    struct ctl_reader *reader = ctl_reader_open(path, &how, &status, error, sizeof error);
    assert_non_null(reader);
    while (ctl_reader_next(reader, &item) == CTL_READ_MESSAGE) {
        struct ctl_inspected found;
        struct ctl_inspect *inspect = ctl_inspect_begin();
        ssize_t got;
        while ((got = ctl_reader_read(reader, octets, 7)) > 0)
            ctl_inspect_feed(inspect, octets, (size_t)got);
        ctl_inspect_end(inspect, &found);
        const char *why_not = ctl_reader_uidl(reader, &found, uidl);
        used += (size_t)sprintf(all + used, "%s:", why_not ? "new" : uidl);
        assert_true(ctl_reader_rewind(reader, &found, !why_not));
        while ((got = ctl_reader_read(reader, all + used, CTL_HIDE_NAME + 3)) > 0)
            used += (size_t)got;
        all[used++] = '|';
        all[used] = '\0';
    }
    assert_string_equal(all, wanted);
    ctl_reader_close(reader);
}

#define FROM "From x@y Tue May 10 11:28:07 2005\n"

/* A message that clients know stays as its server showed it; another is unquoted. */
static void mbox_of_a_server(void **state)
{
    (void)state;
    put("dovecot",
        FROM "S: 1\nX-IMAPbase: 255 3\n X-more\nX-UID: 1\nStatus: RO\nX-Keywords:  \n"
             "Content-Length: 9\nStatus-X: kept\nx: y\n\n>From me\n\n" FROM
             "Status: O\r\nX-UID: 2\r\n\r\nStatus: x\r\n>From a\r\n\n" FROM
             "S: 3\nStatus: O\n\n>From a\n\n" FROM "X-UID: 4",
        1);
    expect_stored("dovecot", CTL_UIDL_AUTO,
                  "00000001000000ff:S: 1\nStatus-X: kept\nx: y\n\n>From me\n|"
                  "00000002000000ff:\r\nStatus: x\r\n>From a\r\n|"
                  "new:S: 3\nStatus: O\n\nFrom a\n|"
                  "00000004000000ff:|");
    put("qpopper", FROM "X-UIDL: abc\nStatus: RO\n\n>From a\n\n" FROM "S: 2\n\n>From b\n", 1);
    expect_stored("qpopper", CTL_UIDL_AUTO,
                  "abc:X-UIDL: abc\nStatus: RO\n\n>From a\n|new:S: 2\n\nFrom b\n|");
    expect_stored("qpopper", CTL_UIDL_NONE,
                  "new:X-UIDL: abc\nStatus: RO\n\nFrom a\n|new:S: 2\n\nFrom b\n|");
    put("odd",
        FROM "X-IMAPbase: 255 3\nX-UID: 1\n\tand "
             "more\nab\nX-Keywords-of-an-endless-name-that-goes-on: 1\n"
             "Status\nx:\n\t\n\r\nbody\n",
        1);
    expect_stored("odd", CTL_UIDL_AUTO,
                  "00000001000000ff:ab\nX-Keywords-of-an-endless-name-that-goes-on: 1\n"
                  "Status\nx:\n\t\n\r\nbody\n|");
    put("nobody", FROM "X-UID: 7\nStatus: O\nno body", 1);
    expect_stored("nobody", CTL_UIDL_AUTO, "new:X-UID: 7\nStatus: O\nno body|");
    put("short", FROM "X-IMAP: 1 1\nX-UID: 7\nno end", 1);
    expect_stored("short", CTL_UIDL_AUTO, "0000000700000001:no end|");
    put("sender's",
        FROM "X-IMAP: 1 1\nX-UID: 7\n\n\n" FROM "X-IMAPbase: 2 2\nX-UID: 8\n\n\n" FROM
             "X-UID: 9\n\n",
        1);
    expect_stored("sender's", CTL_UIDL_AUTO,
                  "0000000700000001:\n|0000000800000001:\n|0000000900000001:|");
}

static void names_in_the_order_of_a_list(void **state)
{
    (void)state;
    make_maildir("mf");
    put("mf/new/1000.a", "a\n", 1);
    put("mf/cur/1001.b:2,S", "b\n", 1);
    put("mf/dovecot-uidlist", "3 V1 N3 G1\n1 :1001.b\n2 :1000.a\n", 1);
    expect_stored("mf", CTL_UIDL_FILENAME, "1001.b:b\n|1000.a:a\n|");
    put("mf/dovecot-uidlist", "damaged\n", 1);
    expect_stored("mf", CTL_UIDL_FILENAME, "1000.a:a\n|1001.b:b\n|");
}

/* Why the first message of a path keeps no UIDL; "" if it keeps one, which is in `uidl`. */
static const char *why_not(const char *path, const struct ctl_reader_how *how,
                           char uidl[MAILDROP_UIDL_MAX + 1])
{
    static char octets[4096], error[512];
    struct ctl_inspected found;
    struct ctl_item item;
    struct ctl_inspect *inspect = ctl_inspect_begin();
    ssize_t got;
    int status;
    struct ctl_reader *reader = ctl_reader_open(path, how, &status, error, sizeof error);
    assert_non_null(reader);
    assert_int_equal(ctl_reader_next(reader, &item), CTL_READ_MESSAGE);
    while ((got = ctl_reader_read(reader, octets, sizeof octets)) > 0)
        ctl_inspect_feed(inspect, octets, (size_t)got);
    ctl_inspect_end(inspect, &found);
    const char *why = ctl_reader_uidl(reader, &found, uidl);
    ctl_reader_close(reader);
    return why ? why : "";
}

static void expect_uidl(const char *path, enum ctl_uidl_kind kind, const char *format,
                        const char *why, const char *uidl)
{
    char got[MAILDROP_UIDL_MAX + 1] = "";
    const struct ctl_reader_how how = {.uidl = kind, .uidl_format = format};
    const char *said = why_not(path, &how, got);
    if (!strstr(said, why) || (*said != '\0') != (*why != '\0'))
        fail_msg("%s: \"%s\" was said, not \"%s\"", path, said, why);
    if (uidl)
        assert_string_equal(got, uidl);
}

/* Each kind of UIDL where it is, and where it is not. */
static void uidls_of_every_kind(void **state)
{
    (void)state;
    char *long_name = base_format("mk/cur/1%070d.x", 1);
    put("uid", FROM "X-IMAPbase: 255 3\nX-UID: 1\n\nx\n", 1);
    put("uidl", FROM "X-UIDL: abc\nX-UID: 7\n\nx\n", 1);
    put("neither", FROM "Subject: x\n\nx\n", 1);
    expect_uidl("uid", CTL_UIDL_X_UID, NULL, "", "00000001000000ff");
    expect_uidl("uid", CTL_UIDL_X_UID, "%v.%u", "", "255.1");
    expect_uidl("uid", CTL_UIDL_AUTO, "%f", "--uidl-format makes no UIDL", NULL);
    expect_uidl("uid", CTL_UIDL_X_UIDL, NULL, "", "00000001000000ff");
    expect_uidl("neither", CTL_UIDL_X_UIDL, NULL, "no X-UIDL header", NULL);
    expect_uidl("uidl", CTL_UIDL_X_UIDL, NULL, "", "abc");
    expect_uidl("uidl", CTL_UIDL_X_UID, NULL, "no X-UID header", NULL);
    expect_uidl("uidl", CTL_UIDL_FILENAME, NULL, "only a Maildir", NULL);
    expect_uidl("uidl", CTL_UIDL_DOVECOT, NULL, "no such list", NULL);
    expect_uidl("uidl", CTL_UIDL_CYRUS, NULL, "no UIDL of an old server", NULL);
    expect_uidl("neither", CTL_UIDL_AUTO, NULL, "no UIDL of an old server", NULL);
    expect_uidl("neither", CTL_UIDL_POPA3D, NULL, "", NULL);
    make_maildir("mk");
    put(long_name, "X-UIDL: abc\n\nx\n", 1);
    free(long_name);
    expect_uidl("mk", CTL_UIDL_AUTO, NULL, "no UIDL of an old server", NULL);
    expect_uidl("mk", CTL_UIDL_NONE, NULL, "--uidl=none", NULL);
    expect_uidl("mk", CTL_UIDL_FILENAME, NULL, "file name is too long", NULL);
    expect_uidl("mk", CTL_UIDL_X_UIDL, NULL, "", "abc");
    expect_uidl("mk", CTL_UIDL_COURIER, NULL, "no such list", NULL);
    /* A Maildir's own list; Courier's only where Dovecot's is not. */
    put("mk/courierpop3dsizelist", "/2 1 1\nother 1 1:1\n", 1);
    expect_uidl("mk", CTL_UIDL_COURIER, NULL, "never showed this message", NULL);
    expect_uidl("mk", CTL_UIDL_AUTO, NULL, "never showed this message", NULL);
    expect_uidl("mk", CTL_UIDL_DOVECOT, NULL, "no such list", NULL);
    put("mk/dovecot-uidlist", "3 V1 N3 G1\n", 1);
    expect_uidl("mk", CTL_UIDL_AUTO, NULL, "no such list", NULL);
    put("mk/dovecot-uidlist", "damaged\n", 1);
    refuse("mk", CTL_FORMAT_AUTO, EX_DATAERR, "not a dovecot-uidlist");
    assert_int_equal(unlink("mk/dovecot-uidlist"), 0);
    put("mk/courierpop3dsizelist", "damaged\n", 1);
    refuse("mk", CTL_FORMAT_AUTO, EX_DATAERR, "not a courierpop3dsizelist");
    /* A list from elsewhere. */
    char got[MAILDROP_UIDL_MAX + 1] = "";
    make_maildir("ml");
    put("ml/new/1.a", "x\n", 1);
    struct ctl_reader_how how = {.list = "/2 1 1\n1.a 2 5:6\n"};
    assert_string_equal(why_not("ml", &how, got), "");
    assert_string_equal(got, "UID5-6");
    how.list = "3 V5\n2 P\x01 :1.a\n";
    assert_non_null(strstr(why_not("ml", &how, got), "makes is no UIDL"));
}

/* A mailbox in use: its clients and server rename and remove while it is read. */
static void maildir_in_use(void **state)
{
    (void)state;
    static const struct ctl_reader_how how = {.format = CTL_FORMAT_MAILDIR};
    char octets[100], error[512];
    struct ctl_item item;
    int status;
    make_maildir("busy");
    put("busy/new/1.a", "one\n", 1);
    put("busy/new/2.a", "two\n", 2);
    put("busy/cur/3.a:2,", "three\n", 3);
    put("busy/cur/4.a:2,", "four\n", 4);
    put("busy/cur/same", "five\n", 5);
    put("busy/new/same", "five\n", 5);
    put("busy/new/0.a", "zero\n", 0);
    struct ctl_reader *reader = ctl_reader_open("busy", &how, &status, error, sizeof error);
    assert_non_null(reader);
    assert_int_equal(rename("busy/new/1.a", "busy/cur/1.a:2,S"), 0);
    assert_int_equal(rename("busy/new/2.a", "busy/new/2.a:2,"), 0);
    assert_int_equal(rename("busy/cur/3.a:2,", "busy/cur/3.a:2,RS"), 0);
    assert_int_equal(unlink("busy/cur/4.a:2,"), 0);
    static const char *const wanted[] = {"zero\n", "five\n", "five\n", "one\n", "two\n", "three\n"};
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        assert_int_equal(ctl_reader_next(reader, &item), CTL_READ_MESSAGE);
        ssize_t got = ctl_reader_read(reader, octets, sizeof octets);
        assert_int_equal(got, strlen(wanted[i]));
        assert_memory_equal(octets, wanted[i], (size_t)got);
        if (strcmp(wanted[i], "one\n") == 0) /* since others were looked for */
            assert_int_equal(rename("busy/new/2.a:2,", "busy/cur/2.a:2,F"), 0);
    }
    assert_int_equal(ctl_reader_next(reader, &item), CTL_READ_FAILED);
    assert_string_equal(item.reason, "No such file or directory");
    assert_int_equal(ctl_reader_next(reader, &item), CTL_READ_END);
    ctl_reader_close(reader);
}

/* Of Cyrus the index is believed, as far as its messages are there. */
static void cyrus_with_gaps(void **state)
{
    (void)state;
    unsigned char index[192 + 3 * 144] = {0};
    assert_int_equal(mkdir("cy", 0700), 0);
    assert_int_equal(mkdir("cy/cyrus.index", 0700), 0);
    refuse("cy", CTL_FORMAT_AUTO, EX_DATAERR, "cyrus.index: not a regular file");
    assert_int_equal(rmdir("cy/cyrus.index"), 0);
    refuse("cy", CTL_FORMAT_CYRUS, EX_DATAERR, "it lacks cyrus.index");
    put("cy/cyrus.index", "short", 1);
    refuse("cy", CTL_FORMAT_AUTO, EX_DATAERR, "cyrus.index is of no version");
    index[11] = 20;  /* version */
    index[15] = 192; /* where the records begin */
    index[19] = 144; /* their size */
    index[23] = 3;   /* and number */
    for (unsigned char i = 0; i < 3; i++)
        index[192 + 144 * i + 3] = (unsigned char)(i + 1);
    FILE *file = fopen("cy/cyrus.index", "w");
    assert_int_equal(fwrite(index, sizeof index, 1, file), 1);
    fclose(file);
    put("cy/1.", "one\n", 1);
    assert_int_equal(mkdir("cy/3.", 0700), 0);
    expect("cy", CTL_FORMAT_AUTO, "0:one\n|failed|failed|");
}

/* Where a length leads past the end, or a link is on the way of what is of others. */
static void leads_nowhere(void **state)
{
    (void)state;
    char error[512];
    int status;
    const struct ctl_reader_how beneath = {.beneath = true};
    put("far", FROM "Content-Length: 9223372036854775000\n\nx\n\n" FROM "Content-Length: 99\n\ny\n",
        1);
    expect("far", CTL_FORMAT_AUTO,
           "1115717287:Content-Length: 9223372036854775000\n\nx\n|"
           "1115717287:Content-Length: 99\n\ny\n|");
    assert_int_equal(symlink("far", "link"), 0);
    assert_null(ctl_reader_open("link", &beneath, &status, error, sizeof error));
    assert_int_equal(status, EX_NOINPUT);
    assert_non_null(strstr(error, "a symbolic link is on the way"));
    expect("link", CTL_FORMAT_AUTO,
           "1115717287:Content-Length: 9223372036854775000\n\nx\n|"
           "1115717287:Content-Length: 99\n\ny\n|");
    refuse("far", CTL_FORMAT_CYRUS, EX_DATAERR, "is a file");
    put("old.eml", "x\n", 0);
    expect("old.eml", CTL_FORMAT_AUTO, "0:x\n|");
}

static void formats(void **state)
{
    (void)state;
    enum ctl_format format;
    assert_true(ctl_reader_format(NULL, &format));
    assert_int_equal(format, CTL_FORMAT_AUTO);
    assert_true(ctl_reader_format("maildir", &format));
    assert_int_equal(format, CTL_FORMAT_MAILDIR);
    assert_false(ctl_reader_format("mailbox", &format));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_files_apart),
        cmocka_unit_test(refuses_what_is_none),
        cmocka_unit_test(locked_mbox_waits),
        cmocka_unit_test(maildir_in_order),
        cmocka_unit_test(maildir_of_names_alike),
        cmocka_unit_test(maildir_follows_nothing),
        cmocka_unit_test(empty_maildir),
        cmocka_unit_test(names),
        cmocka_unit_test(mbox_of_a_server),
        cmocka_unit_test(names_in_the_order_of_a_list),
        cmocka_unit_test(uidls_of_every_kind),
        cmocka_unit_test(maildir_in_use),
        cmocka_unit_test(cyrus_with_gaps),
        cmocka_unit_test(leads_nowhere),
        cmocka_unit_test(formats),
    };
    return cmocka_run_group_tests(tests, enter_place, leave_place);
}
