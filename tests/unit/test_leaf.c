/*
 * test_leaf.c - pages of a chunk table with every number in them wrong, one after the other: what
 * does not fit is not taken, and nothing outside a page is read.
 */
#include "between.h"
#include "store/leaf.h"
#include "store/maildrop.h"
#include "store/schema.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = SCHEMA_PAGE_SIZE, FIRST = PAGE - 40 };

static unsigned char page[PAGE];
static int fd;

static int enter(void **state)
{
    (void)state;
    fd = memfd_create("pages", MFD_CLOEXEC);
    return fd < 0;
}

static int leave(void **state)
{
    (void)state;
    return close(fd);
}

/* Page 2 as a leaf with one cell at `at`, of these octets. */
static void put_cell(size_t at, const char *cell, size_t size)
{
    memset(page, 0, sizeof page);
    page[0] = 0x0d;
    page[4] = 1;
    page[8] = (unsigned char)(at >> 8);
    page[9] = (unsigned char)at;
    memcpy(page + at, cell, size < PAGE - at ? size : PAGE - at);
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
}

#define PUT(at, cell) put_cell(at, cell, sizeof(cell) - 1)

/* The only chunk that is found; false if there is none. */
static bool find(struct leaf_chunk *chunk)
{
    struct leaf_chunk *chunks;
    size_t n;

    assert_true(leaf_find_chunks(fd, &chunks, &n));
    assert_true(is_between(n, 0, 1));
    if (n == 1)
        *chunk = chunks[0];
    free(chunks);
    return n == 1;
}

/* Payload, place, then the record: header size 3, NULL, a blob of 4 octets, these. */
static void test_a_chunk(void **state)
{
    struct leaf_chunk chunk;
    unsigned char content[4];

    (void)state;
    PUT(FIRST, "\x07\x05\x03\x00\x14"
               "mail");
    assert_true(find(&chunk));
    assert_int_equal(chunk.place, 5);
    assert_int_equal(chunk.size, 4);
    assert_int_equal(chunk.local, 4);
    assert_true(leaf_read_chunk(fd, &chunk, content));
    assert_memory_equal(content, "mail", 4);
    /* A place as long as a number can be. */
    PUT(FIRST, "\x07\xbf\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x14"
               "mail");
    assert_true(find(&chunk));
    assert_int_equal(chunk.place, INT64_MAX);
}

static void test_what_is_none(void **state)
{
    struct leaf_chunk chunk;

    (void)state;
    PUT(FIRST, "\x07\x00\x03\x00\x14"
               "mail"); /* place 0 */
    assert_false(find(&chunk));
    PUT(FIRST, "\x07\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03\x00\x14"
               "mail"); /* below 0 */
    assert_false(find(&chunk));
    PUT(FIRST, "\x07\x05\x04\x00\x14"
               "mail"); /* another header size */
    assert_false(find(&chunk));
    PUT(FIRST, "\x07\x05\x03\x01\x14"
               "mail"); /* a column that is not NULL */
    assert_false(find(&chunk));
    PUT(FIRST, "\x07\x05\x03\x00\x15"
               "mail"); /* a text */
    assert_false(find(&chunk));
    PUT(FIRST, "\x07\x05\x03\x00\x06"
               "mail"); /* a number */
    assert_false(find(&chunk));
    PUT(FIRST, "\x08\x05\x03\x00\x14"
               "mail"); /* another payload */
    assert_false(find(&chunk));
    /* Larger than a chunk can be: 2^20 octets, serial type 12 + 2^21. */
    PUT(FIRST, "\xc0\x80\x06\x05\x06\x00\x81\x80\x80\x0c");
    assert_false(find(&chunk));
}

/* The numbers of a cell run past the end of the page, one octet less each time; then its content.
 */
static void test_past_the_end(void **state)
{
    static const char cell[] = "\x87\x05\x83\x05\x83\x80\x80\x80\x03\x00\x94\x14";
    struct leaf_chunk chunk;

    (void)state;
    for (size_t room = 1; room < sizeof cell; room++) {
        put_cell(PAGE - room, cell, room);
        assert_false(find(&chunk));
    }
    for (size_t room = 1; room < 9; room++) {
        put_cell(PAGE - room, "\x07\x05\x03\x00\x14mail", room);
        assert_false(find(&chunk));
    }
    put_cell(PAGE - 9, "\x07\x05\x03\x00\x14mail", 9);
    assert_true(find(&chunk));
}

static void test_no_leaf(void **state)
{
    struct leaf_chunk chunk;

    (void)state;
    PUT(FIRST, "\x07\x05\x03\x00\x14"
               "mail");
    page[0] = 0x05;
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
    assert_false(find(&chunk));
    page[0] = 0x0d;
    page[3] = 0xff; /* more cells than a page can have */
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
    assert_false(find(&chunk));
}

/* Content of 5,000 octets: what stays in the leaf, then pages that say which one is next. */
static void test_chain(void **state)
{
    /* Payload, place; the record's header: its size, NULL, and the type 12 + 2 * 5000. */
    static const unsigned char begin[] = {0xa7, 0x0c, 0x05, 0x04, 0x00, 0xce, 0x1c};
    const size_t payload = 5004, local_min = (PAGE - 12) * 32 / 255 - 23;
    const size_t part = local_min + (payload - local_min) % (PAGE - 4);
    const size_t local = part <= PAGE - 35 ? part : local_min;
    static unsigned char content[MAILDROP_CHUNK_SIZE];
    unsigned char further[PAGE];
    struct leaf_chunk chunk;

    (void)state;
    memset(page, 0, sizeof page);
    page[0] = 0x0d;
    page[4] = 1;
    page[9] = 100;
    memcpy(page + 100, begin, sizeof begin);
    memset(page + 107, 'x', local - 4);
    page[103 + local + 3] = 3; /* the next page */
    memset(further, 'y', sizeof further);
    memset(further, 0, 4);
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
    assert_int_equal(pwrite(fd, further, PAGE, 2 * PAGE), PAGE);
    assert_true(find(&chunk));
    assert_int_equal(chunk.size, 5000);
    assert_true(leaf_read_chunk(fd, &chunk, content));
    assert_int_equal(content[0], 'x');
    assert_int_equal(content[4999], 'y');
    /* It does not end where the content does. */
    further[3] = 2;
    assert_int_equal(pwrite(fd, further, PAGE, 2 * PAGE), PAGE);
    assert_false(leaf_read_chunk(fd, &chunk, content));
    /* It leads nowhere: to no page, or past the last. */
    page[103 + local + 3] = 0;
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
    assert_false(leaf_read_chunk(fd, &chunk, content));
    page[103 + local + 3] = 200;
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
    assert_false(leaf_read_chunk(fd, &chunk, content));
    /* The number of the next page would lie past the end of this one. */
    memmove(page + PAGE - 3 - local, page + 100, 3 + local);
    page[8] = (unsigned char)((PAGE - 3 - local) >> 8);
    page[9] = (unsigned char)(PAGE - 3 - local);
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
    assert_true(find(&chunk));
    assert_false(leaf_read_chunk(fd, &chunk, content));
    assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    assert_false(leaf_read_chunk(fd, &chunk, content)); /* it is gone */
}

/* Several in a page come in the order of their places. */
static void test_order(void **state)
{
    struct leaf_chunk *chunks;
    size_t n;

    (void)state;
    memset(page, 0, sizeof page);
    page[0] = 0x0d;
    page[4] = 3;
    for (size_t i = 0; i < 3; i++) {
        const size_t at = FIRST - 10 * i;
        page[8 + 2 * i] = (unsigned char)(at >> 8);
        page[9 + 2 * i] = (unsigned char)at;
        memcpy(page + at, "\x04\x00\x03\x00\x0e!", 6);
        page[at + 1] = (unsigned char)(i == 0 ? 7 : 9 - i * 2);
    }
    assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
    assert_true(leaf_find_chunks(fd, &chunks, &n));
    assert_int_equal(n, 3);
    assert_int_equal(chunks[0].place, 5);
    assert_int_equal(chunks[1].place, 7);
    assert_int_equal(chunks[2].place, 7);
    free(chunks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_chunk),      cmocka_unit_test(test_what_is_none),
        cmocka_unit_test(test_past_the_end), cmocka_unit_test(test_no_leaf),
        cmocka_unit_test(test_order),        cmocka_unit_test(test_chain),
    };
    return cmocka_run_group_tests(tests, enter, leave);
}
