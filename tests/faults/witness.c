/*
 * witness.c - what a maildrop holds, remembered outside it.
 */
#include "tests/faults/witness.h"
#include "store/check.h"
#include "tests/faults/disk.h"
#include "tests/faults/memory.h"

uint64_t witness_digest(const void *octets, size_t size)
{
    const unsigned char *at = octets;
    uint64_t digest = 0xcbf29ce484222325;

    for (size_t i = 0; i < size; i++)
        digest = (digest ^ at[i]) * 0x100000001b3;
    return digest;
}

char *witness_text(uint64_t seed, size_t size)
{
    char *text = malloc(size + 100);
    size_t n = (size_t)sprintf(text, "Subject: %016llx\r\n\r\n", (unsigned long long)seed);

    while (n < size) {
        const uint64_t random = disk_random(&seed);
        size_t line = random % 100;

        for (; line > 0 && n < size; line--)
            text[n++] = (char)('!' + (random >> line % 50) % 90);
        text[n++] = '\r';
        text[n++] = '\n';
    }
    text[n] = '\0';
    return text;
}

enum store_outcome witness_deliver(struct maildrop *m, uint64_t seed, size_t size, int64_t *id)
{
    enum store_outcome outcome;
    char *text;

    memory_pause(true);
    text = witness_text(seed, size);
    memory_pause(false);
    outcome = test_deliver(m, text, strlen(text), id);
    free(text);
    return outcome;
}

static enum store_outcome read_content(struct maildrop *m, struct witness_message *message)
{
    enum store_outcome outcome;
    size_t got = 0;
    char *octets;

    memory_pause(true);
    octets = malloc(message->size + 1);
    memory_pause(false);
    outcome = maildrop_read(m, message->id, 0, octets, message->size + 1, &got);
    if (outcome == STORE_OK && got != message->size)
        fail_msg("message %lld has %zu octets for %llu", (long long)message->id, got,
                 (unsigned long long)message->size);
    message->digest = witness_digest(octets, got);
    free(octets);
    return outcome;
}

enum store_outcome witness_look(struct maildrop *m, struct witness *w)
{
    struct maildrop_snapshot *snapshot = NULL;
    struct maildrop_totals totals;
    enum store_outcome outcome = maildrop_totals(m, &totals);

    if (outcome != STORE_OK || (outcome = maildrop_snapshot(m, &totals, &snapshot)) != STORE_OK)
        return outcome;
    w->n = maildrop_snapshot_count(snapshot);
    assert_true(w->n <= WITNESS_MESSAGES);
    assert_int_equal(w->n, totals.messages);
    for (size_t i = 0; i < w->n && outcome == STORE_OK; i++) {
        const struct maildrop_entry entry = maildrop_snapshot_entry(snapshot, i);
        struct maildrop_message about;
        struct witness_message *message = &w->messages[i];

        memset(message, 0, sizeof(*message));
        message->id = entry.id;
        message->size = entry.size;
        maildrop_entry_uidl(&entry, message->uidl);
        if ((outcome = maildrop_next(m, entry.id - 1, &about)) != STORE_OK)
            break;
        message->retrieved = about.retrieved > 0;
        assert_string_equal(about.uidl, message->uidl);
        outcome = read_content(m, message);
    }
    maildrop_snapshot_free(snapshot);
    return outcome;
}

bool witness_same(const struct witness *a, const struct witness *b)
{
    return a->n == b->n && memcmp(a->messages, b->messages, a->n * sizeof(a->messages[0])) == 0;
}

static bool report(void *context, const char *damage, uint64_t octets)
{
    (void)octets;
    if (damage) {
        fprintf(stderr, "check: %s\n", damage);
        *(bool *)context = false;
    }
    return true;
}

bool witness_check(struct maildrop *m)
{
    bool clean = true;
    const enum store_outcome outcome = check_run(m, report, &clean);

    if (outcome != STORE_OK)
        fprintf(stderr, "check: %s: %s\n", maildrop_outcome_name(outcome), maildrop_error(m));
    return clean && outcome == STORE_OK;
}

void image_take(const struct test_drop *drop, struct image *image)
{
    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        char path[80];
        int fd;

        test_drop_path(drop, (enum maildrop_file)i, path);
        fd = open(path, O_RDONLY | O_CREAT, 0600); /* an outside SQLite removes -wal and -shm */
        image->size[i] = (size_t)test_drop_file_size(drop, (enum maildrop_file)i);
        image->octets[i] = malloc(image->size[i] + 1);
        assert_int_equal(read(fd, image->octets[i], image->size[i]), image->size[i]);
        close(fd);
    }
}

void image_put(const struct image *image, const struct test_drop *drop)
{
    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        char path[80];

        test_drop_path(drop, (enum maildrop_file)i, path);
        test_write_file(path, image->octets[i], image->size[i]);
    }
}

void image_free(struct image *image)
{
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        free(image->octets[i]);
    memset(image, 0, sizeof(*image));
}
