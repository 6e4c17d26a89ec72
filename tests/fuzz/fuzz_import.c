/*
 * fuzz_import.c - what poplarctl import reads of other servers: mbox, Maildir names, the UIDL lists
 * of Dovecot and Courier, the index of Cyrus, formats of UIDLs.
 *
 * Promised: every UIDL is one by RFC 1939; a list is sorted and finds what it holds; an mbox gives
 * the same messages in pieces of any size, and each again after it is rewound; so does what is left
 * of a message without its server's notes.
 */
#include "store/ctl_cyrus.h"
#include "store/ctl_hide.h"
#include "store/ctl_maildir.h"
#include "store/ctl_mbox.h"
#include "store/ctl_uidl.h"
#include "tests/fuzz/fuzz.h"

#include <time.h>

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    setenv("TZ", "UTC", 1);
    tzset();
    return 0;
}

static void check_list(struct ctl_uidl_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct ctl_uidl *entry = &list->entries[i];
        promise(entry->text[0] == '\0' || ctl_uidl_is_valid(entry->text));
        promise(i == 0 || strcmp(list->entries[i - 1].name, entry->name) <= 0);
        promise(ctl_uidl_find(list, entry->name) || strchr(entry->name, ':'));
    }
    ctl_uidl_free(list);
}

static void try_list(bool dovecot, const char *format, const uint8_t *data, size_t size)
{
    char *octets = fuzz_copy(data, size, true), error[200] = "";
    struct ctl_uidl_list list = {0};
    const bool good = dovecot ? ctl_uidl_read_dovecot(octets, format, &list, error, sizeof error)
                              : ctl_uidl_read_courier(octets, &list, error, sizeof error);
    promise(good || error[0]);
    check_list(&list);
    free(octets);
}

static void try_cyrus(const uint8_t *data, size_t size)
{
    unsigned char *octets = (unsigned char *)fuzz_copy(data, size, false);
    struct ctl_cyrus cyrus;
    if (ctl_cyrus_read(octets, size, &cyrus))
        promise(cyrus.n <= size);
    ctl_cyrus_free(&cyrus);
    free(octets);
}

static void try_names(const uint8_t *data, size_t size)
{
    char *name = fuzz_copy(data, size, true), uidl[MAILDROP_UIDL_MAX + 1];
    const struct ctl_uidl_parts parts = {4711, 1234567890, name, "0123456789abcdef"};
    int64_t seconds = 0;
    promise(ctl_maildir_seconds(name) >= 0);
    ctl_maildir_has_flag(name, 'T');
    promise(ctl_uidl_base_length(name) <= strlen(name));
    if (ctl_uidl_make(name, &parts, uidl))
        promise(ctl_uidl_is_valid(uidl));
    if (ctl_uidl_make("%f", &parts, uidl))
        promise(ctl_uidl_is_valid(uidl));
    promise(!ctl_mbox_date(name, &seconds) || seconds >= 0);
    free(name);
}

struct source {
    const uint8_t *data;
    size_t size, at, step;
};

static ssize_t read_source(void *context, void *buffer, size_t size)
{
    struct source *s = context;
    size_t n = s->size - s->at;
    n = n < size ? n : size;
    n = s->step > 0 && n > s->step ? s->step : n;
    memcpy(buffer, s->data + s->at, n);
    s->at += n;
    return (ssize_t)n;
}

static ssize_t look_at_source(void *context, uint64_t position, void *buffer, size_t size)
{
    const struct source *s = context;
    size_t n = position < s->size ? s->size - (size_t)position : 0;
    n = n < size ? n : size;
    memcpy(buffer, s->data + (n ? position : 0), n);
    return (ssize_t)n;
}

/* A digest of all messages; `rewinds`: each is read twice. */
static uint64_t read_mbox(const uint8_t *data, size_t size, size_t step, size_t buffer,
                          bool rewinds, bool quotes)
{
    struct source s = {data, size, 0, step};
    struct ctl_mbox mbox;
    uint64_t digest = 1;
    int64_t received;
    int found;
    char *octets = malloc(buffer);
    ctl_mbox_init(&mbox, read_source, look_at_source, &s);
    mbox.keep_quotes = quotes;
    while ((found = ctl_mbox_next(&mbox, &received)) > 0) {
        const uint64_t position = mbox.position;
        uint64_t first = 0;
        promise(received >= 0);
        for (int again = 0; again <= rewinds; again++) {
            uint64_t text = 0xcbf29ce484222325;
            ssize_t got;
            if (again) {
                s.at = (size_t)position;
                ctl_mbox_rewind(&mbox, position);
            }
            while ((got = ctl_mbox_read(&mbox, octets, buffer)) > 0)
                for (ssize_t i = 0; i < got; i++)
                    text = (text ^ (unsigned char)octets[i]) * 0x100000001b3;
            promise(got == 0);
            promise(!again || text == first);
            first = text;
        }
        digest = digest * 31 + first + (uint64_t)received;
    }
    promise(mbox.position <= size && (found < 0 || mbox.position == size));
    ctl_mbox_free(&mbox);
    free(octets);
    return digest + (uint64_t)found;
}

static void try_mbox(const uint8_t *data, size_t size, bool quotes)
{
    const uint64_t whole = read_mbox(data, size, 0, 8192, false, quotes);
    promise(read_mbox(data, size, 1, 100, false, quotes) == whole);
    promise(read_mbox(data, size, 7, 1, true, quotes) == whole);
}

/* The same in one piece and in small ones. */
static void try_hide(const uint8_t *data, size_t size, size_t step)
{
    char *whole = malloc(size + CTL_HIDE_NAME), *pieces = malloc(size + CTL_HIDE_NAME);
    char *octets = fuzz_copy(data, size, false);
    struct ctl_hide hide = {0};
    size_t n = ctl_hide_take(&hide, octets, size, whole), m = 0;
    n += ctl_hide_end(&hide, whole + n);
    promise(n <= size);
    hide = (struct ctl_hide){0};
    for (size_t at = 0; at < size; at += step) {
        char out[1024 + CTL_HIDE_NAME];
        const size_t put =
            ctl_hide_take(&hide, octets + at, size - at < step ? size - at : step, out);
        memcpy(pieces + m, out, put);
        m += put;
    }
    m += ctl_hide_end(&hide, pieces + m);
    promise(n == m && memcmp(whole, pieces, n) == 0);
    free(whole);
    free(pieces);
    free(octets);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    switch (fuzz_octet(&data, &size) % 8) {
    case 0:
        try_mbox(data, size, false);
        break;
    case 6:
        try_mbox(data, size, true);
        break;
    case 7:
        try_hide(data, size, 1 + fuzz_octet(&data, &size));
        break;
    case 1:
        try_list(true, NULL, data, size);
        break;
    case 2:
        try_list(true, "%v.%u-%f", data, size);
        break;
    case 3:
        try_list(false, NULL, data, size);
        break;
    case 4:
        try_cyrus(data, size);
        break;
    default:
        try_names(data, size);
    }
    return 0;
}
