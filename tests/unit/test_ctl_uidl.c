/*
 * test_ctl_uidl.c - UIDLs of other servers: the lists of Dovecot, Courier and Cyrus, what headers
 * say, captures of live accounts, whole trees of mail. The samples are as those servers write them.
 */
#include "daemon/base.h"
#include "store/ctl_capture.h"
#include "store/ctl_cyrus.h"
#include "store/ctl_inspect.h"
#include "store/ctl_tree.h"
#include "store/ctl_uidl.h"
#include "tests/support/place.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void formats(void **state)
{
    (void)state;
    const struct ctl_uidl_parts parts = {
        .uid = 20, .uidvalidity = 1275660208, .file_name = "1001.b.h,S=16:2,S", .guid = "g1"};
    const struct {
        const char *format, *wanted; /* NULL: refused */
    } cases[] = {
        {"%08Xu%08Xv", "000000144c0907b0"},
        {"%v.%u", "1275660208.20"},
        {"%u", "20"},
        {"UID%u-%v", "UID20-1275660208"},
        {"%f", "1001.b.h,S=16"},
        {"%g", "g1"},
        {"%08Xv%08Xu", "4c0907b000000014"},
        {"%05u", "00020"},
        {"%Xu", "14"},
        {"100%%", "100%"},
        {"%m", NULL},
        {"%", NULL},
        {"", NULL},
        {"a b", NULL},
        {"%8Xu", NULL},
        {"%0999u", NULL},
        {"%04294967301u", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[MAILDROP_UIDL_MAX + 1] = "";
        assert_int_equal(ctl_uidl_make(cases[i].format, &parts, text), cases[i].wanted != NULL);
        if (cases[i].wanted)
            assert_string_equal(text, cases[i].wanted);
    }
    const struct ctl_uidl_parts long_name = {
        .file_name = "0123456789012345678901234567890123456789012345678901234567890123456789x"};
    char text[MAILDROP_UIDL_MAX + 1];
    assert_false(ctl_uidl_make("%f", &long_name, text));
    assert_false(ctl_uidl_make("%f", &(struct ctl_uidl_parts){0}, text));
}

static void expect_entry(const struct ctl_uidl_list *list, const char *file_name, const char *text,
                         uint64_t order)
{
    const struct ctl_uidl *found = ctl_uidl_find(list, file_name);
    assert_non_null(found);
    assert_string_equal(found->text, text);
    assert_int_equal(found->order, order);
}

static void dovecot(void **state)
{
    (void)state;
    char octets[] = "3 V1275660208 N25022 G3085f01b7f11094c501100008c4a11c1\n"
                    "10 W30 S29 :1000.a.h,S=29:2,\n"
                    "20 Pold.uidl :1001.b.h\n"
                    "21 P :1002.c.h:2,S\n"
                    "22 O1 :1003.d.h\n"
                    "23 Pa\x01"
                    "b :1004.e.h\n"
                    "x y z\n"
                    "24\n";
    struct ctl_uidl_list list;
    char error[200];
    assert_true(ctl_uidl_read_dovecot(octets, NULL, &list, error, sizeof error));
    assert_int_equal(list.n, 5);
    /* Flags change; what stands in the list is old. */
    expect_entry(&list, "1000.a.h,S=29:2,RS", "0000000a4c0907b0", 10 + (uint64_t)UINT32_MAX);
    expect_entry(&list, "1001.b.h", "old.uidl", 20 + (uint64_t)UINT32_MAX);
    expect_entry(&list, "1002.c.h:2,", "1002.c.h", 21 + (uint64_t)UINT32_MAX);
    expect_entry(&list, "1003.d.h:2,", "000000164c0907b0", 1);
    expect_entry(&list, "1004.e.h:2,", "", 23 + (uint64_t)UINT32_MAX);
    assert_null(ctl_uidl_find(&list, "1000.a.h"));
    assert_int_equal(list.unlisted, UINT64_MAX);
    ctl_uidl_free(&list);

    char given[] = "3 V5 N6 Gx\n2 :f\n", said[] = "3 P%v-%u V5 N6\n2 :f\n",
         old[] = "1 5 6\n2 f:2,S\n";
    assert_true(ctl_uidl_read_dovecot(given, "%v.%u", &list, error, sizeof error));
    expect_entry(&list, "f", "5.2", 2 + (uint64_t)UINT32_MAX);
    ctl_uidl_free(&list);
    assert_true(ctl_uidl_read_dovecot(said, NULL, &list, error, sizeof error));
    expect_entry(&list, "f", "5-2", 2 + (uint64_t)UINT32_MAX);
    ctl_uidl_free(&list);
    assert_true(ctl_uidl_read_dovecot(old, NULL, &list, error, sizeof error));
    expect_entry(&list, "f:2,", "0000000200000005", 2 + (uint64_t)UINT32_MAX);
    ctl_uidl_free(&list);

    /* A format and a name that make no UIDL; lines that are cut off or hold what nobody knows. */
    char bad[] = "3 V5 P N6 Q7\n2 :f\n :g\nx :h\n3 :\n4 Gguid Z1 :i\n";
    assert_true(ctl_uidl_read_dovecot(bad, "%g\x7f", &list, error, sizeof error));
    assert_int_equal(list.n, 2);
    expect_entry(&list, "i", "", 4 + (uint64_t)UINT32_MAX);
    ctl_uidl_free(&list);
    char guids[] = "3 V5\n4 Gguid :i\n5 :j\n";
    assert_true(ctl_uidl_read_dovecot(guids, "%g", &list, error, sizeof error));
    expect_entry(&list, "i", "guid", 4 + (uint64_t)UINT32_MAX);
    expect_entry(&list, "j", "j", 5 + (uint64_t)UINT32_MAX);
    ctl_uidl_free(&list);
    char empty[] = "3 V5\n";
    assert_true(ctl_uidl_read_dovecot(empty, NULL, &list, error, sizeof error));
    assert_null(ctl_uidl_find(&list, "f"));
    ctl_uidl_free(&list);

    const char *const broken[] = {"",         "2 V1 N2\n", "3 N2 Gx\n1 :f\n",
                                  "From a\n", "3 Vx\n",    " \n",
                                  "1\n",      "1 x 2\n",   "99999999999999999999 5 6\n",
                                  "3x V5\n"};
    for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
        char *copy = base_strdup(broken[i]);
        assert_false(ctl_uidl_read_dovecot(copy, NULL, &list, error, sizeof error));
        ctl_uidl_free(&list);
        free(copy);
    }
}

static void courier(void **state)
{
    (void)state;
    char octets[] = "/2 31 1199145600\n"
                    "1000.a.h 3029 12:1199145600\n"
                    "1001.b.h 300 13:0\n"
                    "1002.c'\"+ d.h 300 0:1199145600\n"
                    "1003.e.h 300 14\n"
                    "broken\n"
                    "1004.f.h 300 x:y\n";
    char newer[] = "/3 31 1199145600\n1000.a.h 3029 12:1199145600:1\n";
    struct ctl_uidl_list list;
    char error[200];
    assert_true(ctl_uidl_read_courier(octets, &list, error, sizeof error));
    expect_entry(&list, "1000.a.h:2,S", "UID12-1199145600", 0);
    expect_entry(&list, "1001.b.h", "UID13", 0);
    expect_entry(&list, "1002.c'\"+ d.h:2,", "1002.c+27+22+2B+20d.h", 0);
    expect_entry(&list, "1003.e.h", "UID14", 0);
    expect_entry(&list, "1004.f.h", "", 0);
    assert_int_equal(list.unlisted, 0);
    ctl_uidl_free(&list);
    assert_true(ctl_uidl_read_courier(newer, &list, error, sizeof error));
    expect_entry(&list, "1000.a.h", "UID12-1199145600", 0);
    ctl_uidl_free(&list);
    /* What makes no UIDL, or is no line of such a list. */
    char bad[] = "/1 31 1199145600\n"
                 "1005.g.h 300 :\n"
                 "1006.h.h 300 1:\x01\n"
                 " 300 1:1\n"
                 "300 1:1\n"
                 "1007.+++++++++++++++++++++++++++++++++++++++++ 300 0:1\n"
                 ":2,S 300 0:1\n";
    assert_true(ctl_uidl_read_courier(bad, &list, error, sizeof error));
    assert_int_equal(list.n, 4);
    expect_entry(&list, "1005.g.h", "", 0);
    expect_entry(&list, "1006.h.h", "", 0);
    ctl_uidl_free(&list);
    const char *const broken[] = {"1000.a.h 300 1:1\n", "", "/0 1 1\n", "/4 1 1\n", "/2x 1\n"};
    for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
        char *copy = base_strdup(broken[i]);
        assert_false(ctl_uidl_read_courier(copy, &list, error, sizeof error));
        ctl_uidl_free(&list);
        free(copy);
    }
}

/* A list is a small regular file; what else has its name is none. */
static void list_files(void **state)
{
    (void)state;
    size_t size = 7;
    assert_true(place_make("/tmp", 0700));
    assert_null(ctl_uidl_read_file(open(in_place("list"), O_RDONLY), &size));
    assert_int_equal(errno, ENOENT);
    assert_int_equal(mkfifo(in_place("list"), 0600), 0);
    assert_null(ctl_uidl_read_file(open(in_place("list"), O_RDONLY | O_NONBLOCK), &size));
    assert_int_equal(errno, EINVAL);
    assert_int_equal(unlink(in_place("list")), 0);
    const char *path = place_put("list", "3 V1\n");
    char *octets = ctl_uidl_read_file(open(path, O_RDONLY), &size);
    assert_string_equal(octets, "3 V1\n");
    assert_int_equal(size, 5);
    free(octets);
    assert_int_equal(truncate(path, INT64_C(1) << 31), 0);
    assert_null(ctl_uidl_read_file(open(path, O_RDONLY), &size));
    assert_int_equal(errno, EFBIG);
    assert_int_equal(place_remove(), 0);
}

static void put32(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (24 - 8 * i));
}

static void cyrus(void **state)
{
    (void)state;
    unsigned char narrow[160 + 2 * 112] = {0}, wide[192 + 144] = {0};
    struct ctl_cyrus found;
    put32(narrow + 8, 13);
    put32(narrow + 12, 160);
    put32(narrow + 16, 112);
    put32(narrow + 20, 2);
    put32(narrow + 44, 1199145600);
    put32(narrow + 60, 1);
    put32(narrow + 160, 7);
    put32(narrow + 164, 1000);
    put32(narrow + 160 + 112, 8);
    put32(narrow + 160 + 112 + 32, 0x80000000); /* expunged */
    assert_true(ctl_cyrus_read(narrow, sizeof narrow, &found));
    assert_int_equal(found.n, 1);
    assert_int_equal(found.uidvalidity, 1199145600);
    assert_true(found.new_uidl);
    assert_int_equal(found.messages[0].uid, 7);
    assert_int_equal(found.messages[0].received, 1000);
    ctl_cyrus_free(&found);
    put32(narrow + 20, 3);
    assert_false(ctl_cyrus_read(narrow, sizeof narrow, &found));
    ctl_cyrus_free(&found);
    put32(narrow + 8, 21);
    assert_false(ctl_cyrus_read(narrow, sizeof narrow, &found));
    assert_false(ctl_cyrus_read(narrow, 50, &found));
    put32(narrow + 20, 1);
    put32(narrow + 8, 7); /* older than any that is known */
    assert_false(ctl_cyrus_read(narrow, sizeof narrow, &found));
    put32(narrow + 8, 13);
    put32(narrow + 16, 30); /* records too small for what is read of them */
    assert_false(ctl_cyrus_read(narrow, sizeof narrow, &found));
    put32(narrow + 16, 112);
    put32(narrow + 12, sizeof narrow + 1); /* which begin past the end, or inside the header */
    assert_false(ctl_cyrus_read(narrow, sizeof narrow, &found));
    put32(narrow + 12, 50);
    assert_false(ctl_cyrus_read(narrow, sizeof narrow, &found));

    uint64_t received = UINT64_C(1700000000) * 1000000000;
    put32(wide + 8, 20);
    put32(wide + 12, 192);
    put32(wide + 16, 144);
    put32(wide + 20, 1);
    put32(wide + 92, 5);
    put32(wide + 192, 9);
    put32(wide + 192 + 8, (uint32_t)(received >> 32));
    put32(wide + 192 + 12, (uint32_t)received);
    assert_true(ctl_cyrus_read(wide, sizeof wide, &found));
    assert_false(found.new_uidl);
    assert_int_equal(found.messages[0].uid, 9);
    assert_int_equal(found.messages[0].received, 1700000000);
    ctl_cyrus_free(&found);
}

/* In pieces of every size: what is found must not depend on them. */
static struct ctl_inspected inspect(const char *text, size_t step)
{
    struct ctl_inspected found;
    struct ctl_inspect *in = ctl_inspect_begin();
    for (size_t at = 0, size = strlen(text); at < size; at += step)
        ctl_inspect_feed(in, text + at, size - at < step ? size - at : step);
    ctl_inspect_end(in, &found);
    return found;
}

/* The UIDL is what popa3d 1.0.3 says of this message in an mbox. */
static void headers(void **state)
{
    (void)state;
    static const char text[] = "X-UIDL:  AAA!bbb \n"
                               "X-UID: 77\n"
                               "X-IMAPbase: 1199145600 99\n"
                               "Received: from a by b;\n"
                               "\tSat, 1 Jan 2022 00:00:00 +0000\n"
                               "Received: from c by a; yesterday\n"
                               "Message-ID: <m@example.test>\n"
                               "Delivered-To: me\n"
                               "Subject: x\n\nX-UIDL: no\nbody\n";
    for (size_t step = 1; step < sizeof text; step++) {
        struct ctl_inspected found = inspect(text, step);
        assert_string_equal(found.x_uidl, "AAA!bbb");
        assert_int_equal(found.x_uid, 77);
        assert_int_equal(found.uidvalidity, 1199145600);
        assert_int_equal(found.raw_octets, sizeof text - 1);
        assert_int_equal(found.octets, sizeof text - 1 + 12);
        assert_string_equal(found.popa3d, "133eeb515c5262f2");
        assert_false(found.internal);
    }
}

/* What looks like these headers, and is none. */
static void strange_headers(void **state)
{
    (void)state;
    struct ctl_inspected found = inspect("X-UIDL:\nX-UID:  \t", 3);
    assert_string_equal(found.x_uidl, "");
    assert_int_equal(found.x_uid, 0);
    found = inspect("X-UIDL: a b\nX-UID: seven\nX-UIDLs: c\n: d\n\n", 3);
    assert_string_equal(found.x_uidl, "");
    assert_int_equal(found.x_uid, 0);
    assert_false(inspect("Subject: DON'T DELETE THIS MESSAGE\n\nX-IMAP: 1 1\n", 9).internal);
    assert_false(inspect("X-IMAP: 1 1\nSubject: DON'T DELETE\n\n", 9).internal);
    /* popa3d knows this one name in one case only, and a second Date counts like the first. */
    assert_string_not_equal(inspect("X-Delivery-ID: 1\n\n", 9).popa3d, inspect("\n", 9).popa3d);
    assert_string_equal(inspect("x-delivery-id: 1\n\n", 9).popa3d, inspect("\n", 9).popa3d);
    assert_string_not_equal(inspect("Date: 1\nDate: 2\n\n", 9).popa3d,
                            inspect("Date: 1\n\n", 9).popa3d);
    /* A value ends at a NUL, and where there is no more room for it. */
    static const char nul[] = "X-UIDL: ab\0cd\n\n";
    struct ctl_inspect *in = ctl_inspect_begin();
    ctl_inspect_feed(in, nul, sizeof nul - 1);
    ctl_inspect_end(in, &found);
    assert_string_equal(found.x_uidl, "ab");
    char *text = base_alloc(3000);
    memset(text, 'x', 2900);
    memcpy(text, "X-UIDL: ", 8);
    assert_string_equal(inspect(text, 100).x_uidl, "");
    /* The CR of a line end lies where a piece of a long line ends. */
    for (size_t at = 1000; at < 1030; at++) {
        memset(text, 'x', 2900);
        memcpy(text, "Subject: ", 9);
        struct ctl_inspected plain, crlf;
        memcpy(text + at, "\n\nbody\n", 8); /* and the end of the text */
        plain = inspect(text, 7);
        memcpy(text + at, "\r\n\r\nbody\r\n", 11);
        crlf = inspect(text, 7);
        assert_memory_equal(plain.digest, crlf.digest, CTL_DIGEST_SIZE);
        memcpy(text + at, "\rx\n\nbody\n", 10);
        crlf = inspect(text, 7);
        assert_memory_not_equal(plain.digest, crlf.digest, CTL_DIGEST_SIZE);
    }
    free(text);
}

static void digests(void **state)
{
    (void)state;
    const struct ctl_inspected plain = inspect("Subject: x\n\nbody\nmore", 100);
    const char *const same[] = {
        "Subject: x\r\n\r\nbody\r\nmore\r\n",
        "Status: RO\nSubject: x\nX-UID: 5\n\tcontinued\nX-Keywords: a\n\nbody\nmore\n",
        "X-IMAPbase: 1 2\nSubject: x\nX-Status: A\nContent-Length: 9\nX-UIDL: z\n\nbody\nmore\n",
    };
    const char *const other[] = {
        "Subject: x\n\nbody\nmore.",
        "Subject: y\n\nbody\nmore",
        "Subject: x\nbody\nmore",
        "Subject: x\n\nStatus: RO\nbody\nmore",
        "",
    };
    for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
        struct ctl_inspected found = inspect(same[i], 7);
        assert_memory_equal(found.digest, plain.digest, CTL_DIGEST_SIZE);
    }
    for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
        struct ctl_inspected found = inspect(other[i], 7);
        assert_memory_not_equal(found.digest, plain.digest, CTL_DIGEST_SIZE);
    }
    assert_true(inspect("Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n"
                        "X-IMAP: 1199145600 0000000000\n\ntext\n",
                        9)
                    .internal);
    /* Lines of any length. */
    char *long_line = base_alloc(5000);
    memset(long_line, 'a', 4000);
    memcpy(long_line + 4000, ": b\n\nbody\nmore", 15);
    for (size_t step = 1000; step < 1100; step++)
        assert_memory_equal(inspect(long_line, step).digest, inspect(long_line, 5000).digest,
                            CTL_DIGEST_SIZE);
    free(long_line);
}

/* A capture and the sizes of local messages; what each message is matched with, "-" for nothing. */
static void match(const char *text, const char *sizes, const char *wanted)
{
    struct ctl_capture capture;
    struct ctl_capture_size local[32];
    int64_t matches[32];
    char *copy = base_strdup(text), error[200], got[400] = "";
    size_t n = 0;
    if (!ctl_capture_read(copy, &capture, error, sizeof error))
        fail_msg("%s", error);
    for (const char *at = sizes; *at; n++) {
        local[n].octets = strtoull(at, (char **)&at, 10);
        local[n].raw_octets = local[n].octets - 1;
    }
    ctl_capture_match(&capture, local, n, matches);
    for (size_t i = 0; i < n; i++)
        sprintf(got + strlen(got), "%s ", matches[i] < 0 ? "-" : capture.entries[matches[i]].uidl);
    assert_string_equal(got, wanted);
    ctl_capture_free(&capture);
    free(copy);
}

static void captures(void **state)
{
    (void)state;
#define UIDLS "+OK\r\n1 a\r\n2 b\r\n3 c\r\n4 d\r\n.\r\n"
    match(UIDLS, "10 20 30 40", "a b c d ");
    match(UIDLS, "10 20 30", "- - - "); /* no sizes, other numbers */
    match(UIDLS "1 10\n2 20\n3 30\n4 40\n", "10 20 30 40", "a b c d ");
    match("1 10\n2 20\n"
          "1 a\n2 b\n",
          "10 20", "a b "); /* LIST first */
    match("1 77\n2 78\n", "10 20", "77 78 ");
    match("1 77\n2 78\n", "10", "- ");
    match("1 77\n2 78\n"
          "1 10\n2 20\n",
          "10 20", "77 78 ");                                           /* UIDLs that are numbers */
    match(UIDLS "1 9\n2 19\n3 29\n4 39\n", "10 20 30 40", "a b c d ");  /* LF counted */
    match(UIDLS "1 10\n2 20\n3 31\n4 40\n", "10 20 30 40", "a b c d "); /* miscounted */
    match(UIDLS "1 9\n2 18\n3 31\n4 40\n", "10 20 30 40", "a b c d ");  /* most of them wrong */
    match(UIDLS "1 8\n2 18\n3 31\n4 42\n", "10 20 30 40", "- - - - ");  /* all of them */
    match("# by hand\n" UIDLS "1 10\n2 20\n3 30\n4 40\n", "10 20 30 40 50",
          "a b c d - "); /* new mail */
    match(UIDLS "1 10\n2 20\n3 30\n4 40\n", "20 40", "b d ");
    match(UIDLS "1 10\n2 20\n3 30\n4 40\n", "99 20 77 40", "- b - d ");
    /* Of equal sizes none is certain, but between two that are. */
    match(UIDLS "1 10\n2 10\n3 10\n4 10\n", "10 10 10", "- - - ");
    match(UIDLS "1 10\n2 10\n3 10\n4 10\n", "10 10 10 10", "a b c d ");
    match(UIDLS "1 10\n2 50\n3 50\n4 20\n", "10 50 50 20 50", "a b c d - ");
    match(UIDLS "1 10\n2 50\n3 50\n4 20\n", "10 50 20", "a - d ");
    /* Out of order: the longer run is believed. */
    match(UIDLS "1 10\n2 20\n3 30\n4 40\n", "40 10 20 30 99", "- a b c - ");

    const char *const broken[] = {"1 a\n3 b\n",
                                  "1\n",
                                  "1 a b\n",
                                  "x a\n",
                                  "1 a\n2 b\n1 10\n",
                                  "1 a\n2 b\n1 10\n2 x\n",
                                  "2 a\n",
                                  "1x a\n",
                                  "1 a\x7f\n",
                                  "1 a\n2 b\n1 10\n2 20\n1 x\n",
                                  "99999999999999999999 a\n",
                                  " \t\n"};
    for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
        struct ctl_capture capture;
        char error[200] = "", *copy = base_strdup(broken[i]);
        assert_false(ctl_capture_read(copy, &capture, error, sizeof error));
        assert_true(strlen(error) > 0);
        ctl_capture_free(&capture);
        free(copy);
    }
}

static void trees(void **state)
{
    (void)state;
    struct ctl_tree tree;
    const char *const directories[] = {"bob",
                                       "bob/cur",
                                       "bob/new",
                                       "carol",
                                       "carol/Maildir",
                                       "carol/Maildir/cur",
                                       "carol/Maildir/new",
                                       "example.test",
                                       "example.test/dave",
                                       "example.test/dave/cur",
                                       "example.test/dave/new",
                                       "example.test/erin",
                                       "example.test/erin/Maildir",
                                       "example.test/erin/Maildir/cur",
                                       "example.test/erin/Maildir/new",
                                       "example.test/deeper",
                                       "example.test/deeper/x",
                                       "cy",
                                       "nothing",
                                       ".hidden",
                                       ".hidden/cur",
                                       ".hidden/new",
                                       "nothing/new"};
    assert_true(place_make("/tmp", 0700));
    for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
        assert_int_equal(mkdir(in_place(directories[i]), 0700), 0);
    place_put("alice", "From a\nx\n");
    place_put("alice.lock", "1");
    place_put("empty", "%s", "");
    place_put("cy/cyrus.index", "x");
    place_put("example.test/frank", "From a\nx\n");
    assert_int_equal(symlink("/tmp", in_place("mallory")), 0);
    assert_int_equal(symlink("../bob/cur", in_place("nothing/cur")), 0);
    assert_int_equal(symlink("../bob", in_place("nothing/Maildir")), 0);

    static const char *const wanted[][2] = {
        {"alice", "alice"},
        {"bob", "bob"},
        {"carol", "carol/Maildir"},
        {"cy", "cy"},
        {"dave@example.test", "example.test/dave"},
        {"erin@example.test", "example.test/erin/Maildir"},
        {"frank@example.test", "example.test/frank"},
    };
    assert_true(ctl_tree_read(place, &tree));
    assert_int_equal(tree.n, ARRAY_SIZE(wanted));
    for (size_t i = 0; i < tree.n; i++) {
        assert_string_equal(tree.entries[i].user, wanted[i][0]);
        assert_string_equal(tree.entries[i].path + strlen(place) + 1, wanted[i][1]);
    }
    /* alice.lock, empty, mallory, nothing with all three entries, example.test/deeper */
    assert_int_equal(tree.n_passed, 8);
    ctl_tree_free(&tree);
    assert_false(ctl_tree_read(in_place("absent"), &tree));
    ctl_tree_free(&tree);
    assert_int_equal(place_remove(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats),    cmocka_unit_test(dovecot),  cmocka_unit_test(courier),
        cmocka_unit_test(cyrus),      cmocka_unit_test(headers),  cmocka_unit_test(strange_headers),
        cmocka_unit_test(digests),    cmocka_unit_test(captures), cmocka_unit_test(trees),
        cmocka_unit_test(list_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
