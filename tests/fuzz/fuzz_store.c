/*
 * fuzz_store.c - a maildrop's files with octets changed, or others altogether in their place.
 *
 * Promised: everything that worker and poplarctl do with them comes to its end in good order; what
 * is listed is never fewer messages than the totals say; what is read has the size that was listed.
 */
#include "store/check.h"
#include "store/listing.h"
#include "store/manage.h"
#include "store/salvage.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/inside.h"

#include <fcntl.h>
#include <unistd.h>

enum { PATIENCE_MS = 20 };

static char path[MAILDROP_FILES][128], copy_path[128], copy_wal[160];

static struct maildrop *open_again(void)
{
    struct maildrop *m = NULL;
    int files[MAILDROP_FILES];
    for (int i = 0; i < MAILDROP_FILES; i++)
        promise((files[i] = open(path[i], O_RDWR | O_CLOEXEC)) >= 0);
    return maildrop_open(files, &m) == STORE_OK ? m : NULL;
}

/* So that a few messages make a group of the listing, and a few more do not. */
static void go_on_near_the_end_of_a_group(void)
{
    struct maildrop_totals totals;
    struct maildrop *m = open_again();
    promise(m && handle_begin_write(m) == STORE_OK && handle_state(m, &totals) == STORE_OK);
    totals.last_id = LISTING_SPAN - 4;
    promise(handle_end_write(m, handle_set_state(m, &totals)) == STORE_OK);
    maildrop_close(m);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char utf8[] = "Subject: h\xc3\xa9llo\nFrom: h\xc3\xa9 <a@b>\n\nbody\n";
    static char large[150000];
    (void)argc, (void)argv;
    memset(large, 'x', sizeof large);
    inside_begin((const char *[]){NULL});
    for (int i = 0; i < MAILDROP_FILES; i++)
        snprintf(path[i], sizeof path[i], "%s/%s", inside_folder(), maildrop_file_names[i]);
    for (int i = 0; i < 3; i++) {
        inside_deliver(large, 1000 + (size_t)i * 70000);
        if (i == 0)
            go_on_near_the_end_of_a_group();
    }
    inside_deliver(utf8, sizeof utf8 - 1);
    inside_deliver("", 0);
    inside_deliver("last\n", 5);
    inside_keep();
    snprintf(copy_path, sizeof copy_path, "%s/copy", inside_folder());
    snprintf(copy_wal, sizeof copy_wal, "%s-wal", copy_path);
    atexit(inside_finish);
    return 0;
}

/* The input is a list of changes: which file (0x80: -wal; 0x40: counted in pages), where, how many
 * octets, these. 0xff: the rest is a file of its own. */
static void spoil(const uint8_t *data, size_t size)
{
    inside_restore();
    while (size > 0) {
        const uint8_t how = fuzz_octet(&data, &size);
        const int fd = open(path[how & 0x80 ? MAILDROP_WAL : MAILDROP_DB], O_RDWR);
        off_t at = fuzz_octet(&data, &size);
        size_t n;
        at = at << 8 | fuzz_octet(&data, &size);
        at = how & 0x40 ? at % 64 * 4096 + (at >> 8) : at << (how & 7);
        n = fuzz_octet(&data, &size);
        n = how == 0xff || n > size ? size : n;
        promise(fd >= 0);
        if (how == 0xff)
            promise(ftruncate(fd, 0) == 0 && pwrite(fd, data, n, 0) == (ssize_t)n);
        else if (how & 0x20)
            promise(ftruncate(fd, at) == 0);
        else
            promise(pwrite(fd, data, n, at) == (ssize_t)n);
        close(fd);
        data += n;
        size -= n;
    }
}

static void copy_file(const char *from, const char *to)
{
    static char octets[65536];
    ssize_t got;
    const int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    promise(in >= 0 && out >= 0);
    while ((got = read(in, octets, sizeof octets)) > 0)
        promise(write(out, octets, (size_t)got) == got);
    close(in);
    close(out);
}

static ssize_t no_source(void *context, void *buffer, size_t size)
{
    size_t *left = context;
    size = size < *left ? size : *left;
    memset(buffer, 'n', size);
    *left -= size;
    return (ssize_t)size;
}

static void read_all(struct maildrop *m, const struct maildrop_snapshot *snapshot)
{
    static char octets[MAILDROP_CHUNK_SIZE];
    for (size_t i = 0; i < maildrop_snapshot_count(snapshot); i++) {
        const struct maildrop_entry entry = maildrop_snapshot_entry(snapshot, i);
        char uidl[MAILDROP_UIDL_MAX + 1];
        uint64_t offset = 0, body;
        char *header;
        size_t got, n;
        const size_t length = maildrop_entry_uidl(&entry, uidl);
        promise(length > 0 && length == strlen(uidl));
        if (entry.form == MAILDROP_SURROGATE &&
            maildrop_surrogate(m, entry.id, &header, &n, &body) == STORE_OK)
            free(header);
        maildrop_read_first(m, entry.id, octets, sizeof octets, &got, &body);
        if (entry.size > 1 << 20)
            continue;
        while (maildrop_read(m, entry.id, offset, octets, sizeof octets, &got) == STORE_OK) {
            offset += got;
            promise(offset <= entry.size);
            if (got < sizeof octets) {
                promise(offset == entry.size);
                break;
            }
        }
    }
}

static bool report(void *context, const char *damage, uint64_t octets)
{
    unsigned *n = context;
    (void)octets;
    return !damage || ++*n < 50;
}

static void use(struct maildrop *m)
{
    struct maildrop_snapshot *snapshot = NULL;
    struct maildrop_totals totals;
    struct maildrop_message message;
    struct manage_state state;
    uint64_t n;
    unsigned damages = 0;
    size_t size = 100000;
    m->patience_ms = PATIENCE_MS;
    if (maildrop_totals(m, &totals) == STORE_OK &&
        maildrop_snapshot(m, &totals, &snapshot) == STORE_OK) {
        promise(maildrop_snapshot_count(snapshot) == totals.messages);
        read_all(m, snapshot);
    }
    maildrop_snapshot_free(snapshot);
    check_run(m, report, &damages);
    manage_look(m, &state);
    for (int64_t id = 0, i = 0; i < 20 && maildrop_next(m, id, &message) == STORE_OK; i++) {
        promise(message.id > id && message.header_size <= message.size);
        id = message.id;
    }
    maildrop_deliver(m, &(struct maildrop_delivery){.utf8_headers = true}, no_source, &size, NULL);
    maildrop_limit(m, 100, 1);
    maildrop_commit(m, (int64_t[]){1, LISTING_SPAN}, 2,
                    (int64_t[]){LISTING_SPAN - 3, LISTING_SPAN + 1}, 2, 0);
    maildrop_expire(m, 1, 0, &n);
    manage_compact_some(m, &n);
    handle_checkpoint(m);
}

static void salvage(void)
{
    static char octets[MAILDROP_CHUNK_SIZE];
    struct maildrop_message message;
    struct salvage *s = NULL;
    char error[300];
    copy_file(path[MAILDROP_DB], copy_path);
    copy_file(path[MAILDROP_WAL], copy_wal);
    if (salvage_open(copy_path, &s, error, sizeof error) == STORE_OK) {
        for (size_t i = 0; i < salvage_count(s) && i < 50; i++) {
            size_t got;
            if (salvage_message(s, i, &message) == SALVAGE_LOST || message.size > 1 << 20)
                continue;
            for (uint64_t at = 0; at < message.size; at += got) {
                if (salvage_read(s, message.id, at, octets, sizeof octets, &got) != STORE_OK ||
                    got == 0)
                    break;
                promise(at + got <= message.size);
            }
        }
    }
    salvage_close(s);
    unlink(copy_path);
    unlink(copy_wal);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct maildrop *m;
    spoil(data, size);
    salvage();
    if ((m = open_again()) != NULL)
        use(m);
    maildrop_close(m);
    return 0;
}
