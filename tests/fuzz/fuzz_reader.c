/*
 * fuzz_reader.c - a file that somebody hands to poplarctl import, whatever it is, read and
 * inspected as the import does.
 *
 * Promised: reading comes to its end; each message reads the same after it is rewound; a UIDL is
 * one by RFC 1939.
 */
#include "store/ctl_hide.h"
#include "store/ctl_reader.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <unistd.h>

static char folder[64], path[80];

static void remove_folder(void)
{
    unlink(path);
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    setenv("TZ", "UTC", 1);
    const char *scratch = getenv("FUZZ_SCRATCH");
    snprintf(folder, sizeof folder, "%s/poplar-reader-XXXXXX", scratch ? scratch : "/tmp");
    promise(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    atexit(remove_folder);
    return 0;
}

static void inspect(struct ctl_reader *reader, size_t piece, struct ctl_inspected *found)
{
    struct ctl_inspect *inspection = ctl_inspect_begin();
    char *octets = malloc(piece);
    ssize_t got;
    while ((got = ctl_reader_read(reader, octets, piece)) > 0)
        ctl_inspect_feed(inspection, octets, (size_t)got);
    promise(got == 0);
    ctl_inspect_end(inspection, found);
    free(octets);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t first = fuzz_octet(&data, &size);
    const struct ctl_reader_how how = {.format = first % 2 ? CTL_FORMAT_AUTO : CTL_FORMAT_MBOX,
                                       .uidl = first / 2 % CTL_UIDL_KINDS};
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    char error[512] = "", uidl[MAILDROP_UIDL_MAX + 1];
    int status = 0;
    static struct ctl_item item;
    promise(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    close(fd);
    struct ctl_reader *reader = ctl_reader_open(path, &how, &status, error, sizeof error);
    promise(reader || (error[0] && status != 0));
    enum ctl_read what = reader ? CTL_READ_FAILED : CTL_READ_END;
    while (what != CTL_READ_END) {
        struct ctl_inspected found = {0}, again = {0};
        what = ctl_reader_next(reader, &item);
        if (what != CTL_READ_MESSAGE)
            continue;
        inspect(reader, 65536, &found);
        const char *why_not = ctl_reader_uidl(reader, &found, uidl);
        promise(why_not || ctl_uidl_is_valid(uidl));
        /* As it is stored: the same in pieces of any size. */
        const struct ctl_inspected as_told = found;
        promise(ctl_reader_rewind(reader, &as_told, first & 1));
        inspect(reader, 65536, &found);
        promise(ctl_reader_rewind(reader, &as_told, first & 1));
        inspect(reader, CTL_HIDE_NAME + 1 + first / 8, &again);
        promise(found.octets == again.octets && found.raw_octets == again.raw_octets);
        promise(memcmp(found.digest, again.digest, sizeof found.digest) == 0);
    }
    ctl_reader_close(reader);
    return 0;
}
