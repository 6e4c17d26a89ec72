/*
 * leaf.c - the chunks of a damaged maildrop, found without SQLite: page by page, whatever became of
 * the tree above them.
 *
 * Runs in poplarctl only. Every number in the file may be wrong: none is used before it is known to
 * lie within its page, and a chain of pages is followed no further than the content is long.
 */
#include "store/leaf.h"
#include "store/maildrop.h"
#include "store/schema.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PAGE = SCHEMA_PAGE_SIZE,
    TABLE_LEAF = 0x0d,
    LEAF_HEADER = 8,
    LOCAL_MAX = PAGE - 35,                   /* payload that a leaf holds whole */
    LOCAL_MIN = (PAGE - 12) * 32 / 255 - 23, /* what it holds of a larger one, at least */
    CHAIN_DATA = PAGE - 4, /* in each further page, after the number of the next */
    BLOB = 12,             /* serial type: 12 + 2 * size */
};

static bool read_page(int fd, uint32_t number, unsigned char page[PAGE])
{
    return number > 0 && pread(fd, page, PAGE, (off_t)(number - 1) * PAGE) == PAGE;
}

static unsigned get16(const unsigned char *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static uint32_t get32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* A variable-length integer; false if it runs past the end of the page. */
static bool get_varint(const unsigned char page[PAGE], size_t *at, uint64_t *value)
{
    uint64_t v = 0;

    for (int i = 0;; i++) {
        if (*at >= PAGE)
            return false;
        if (i == 8) {
            *value = v << 8 | page[(*at)++];
            return true;
        }
        v = v << 7 | (page[*at] & 0x7f);
        if (!(page[(*at)++] & 0x80))
            break;
    }
    *value = v;
    return true;
}

/* Octets of a payload that stay in the leaf. */
static size_t local_part(size_t payload)
{
    const size_t part = LOCAL_MIN + (payload - LOCAL_MIN) % CHAIN_DATA;

    if (payload <= LOCAL_MAX)
        return payload;
    return part <= LOCAL_MAX ? part : LOCAL_MIN;
}

/* A cell as the chunk table has them: the place as its rowid, a record of NULL and a blob. */
static bool take_cell(const unsigned char page[PAGE], size_t at, struct leaf_chunk *chunk)
{
    uint64_t payload, place, header, null, type;
    size_t begin, local;

    if (!get_varint(page, &at, &payload) || !get_varint(page, &at, &place))
        return false;
    begin = at;
    if (!get_varint(page, &at, &header) || !get_varint(page, &at, &null) ||
        !get_varint(page, &at, &type) || null != 0 || header != at - begin)
        return false;
    if (type < BLOB || type % 2 != 0 || payload != header + (type - BLOB) / 2 ||
        payload > header + MAILDROP_CHUNK_SIZE || place == 0 || place > INT64_MAX)
        return false;
    local = local_part((size_t)payload);
    if (begin + local > PAGE)
        return false;
    chunk->place = (int64_t)place;
    chunk->offset = (uint16_t)at;
    chunk->size = (uint32_t)(payload - header);
    chunk->local = (uint32_t)(local - header);
    return true;
}

struct list {
    struct leaf_chunk *chunks;
    size_t n, room;
};

static bool add(struct list *list, const struct leaf_chunk *chunk)
{
    if (list->n == list->room) {
        const size_t room = list->room * 2 + 256;
        struct leaf_chunk *chunks = reallocarray(list->chunks, room, sizeof(*chunks));

        if (!chunks)
            return false;
        list->chunks = chunks;
        list->room = room;
    }
    list->chunks[list->n++] = *chunk;
    return true;
}

static bool take_page(const unsigned char page[PAGE], uint32_t number, struct list *list)
{
    const unsigned cells = get16(page + 3);
    struct leaf_chunk chunk = {.page = number};

    if (page[0] != TABLE_LEAF || LEAF_HEADER + 2 * cells > PAGE)
        return true;
    for (unsigned i = 0; i < cells; i++) {
        if (take_cell(page, get16(page + LEAF_HEADER + (size_t)2 * i), &chunk) &&
            !add(list, &chunk))
            return false;
    }
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct leaf_chunk *x = a, *y = b;

    return x->place < y->place ? -1 : x->place > y->place;
}

bool leaf_find_chunks(int fd, struct leaf_chunk **chunks, size_t *n)
{
    unsigned char page[PAGE];
    struct list list = {0};

    for (uint32_t number = 2; read_page(fd, number, page); number++) {
        if (!take_page(page, number, &list)) {
            free(list.chunks);
            return false;
        }
    }
    if (list.n > 0)
        qsort(list.chunks, list.n, sizeof(*list.chunks), compare);
    *chunks = list.chunks;
    *n = list.n;
    return true;
}

bool leaf_read_chunk(int fd, const struct leaf_chunk *chunk, unsigned char *content)
{
    unsigned char page[PAGE];
    size_t filled = chunk->local, end = (size_t)chunk->offset + chunk->local;
    uint32_t next = 0;

    if (!read_page(fd, chunk->page, page))
        return false;
    memcpy(content, page + chunk->offset, chunk->local);
    if (filled < chunk->size) {
        if (end + 4 > PAGE)
            return false;
        next = get32(page + end);
    }
    while (filled < chunk->size) {
        const size_t part =
            chunk->size - filled < CHAIN_DATA ? chunk->size - filled : (size_t)CHAIN_DATA;

        if (!read_page(fd, next, page))
            return false;
        memcpy(content + filled, page + 4, part);
        filled += part;
        next = get32(page);
    }
    return next == 0;
}
